-- Notes that the ledger was compared with Stripe's objects since it was restored, if that reached 30 days back: a backup may
-- be as old.
DELETE FROM stripe_runs
WHERE kind = 'restore' AND saved_at <= to_timestamp(%(begun_at)s + 1)
  AND saved_at >= to_timestamp(%(since)s) + interval '30 days'

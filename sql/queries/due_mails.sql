-- The mails that are due, in the order in which they are due; one of a donation waits for those before it. While a restored
-- ledger has not been compared with Stripe's objects, none is due: what it lacks could make a mail wrong.
SELECT id, donation_id, kind, seq, attempts, extract(epoch FROM now() - queued_at)::bigint AS age_s, receipt_year,
       receipt_number
FROM outbox o
WHERE state = 'queued' AND due_at <= now()
  AND NOT EXISTS (SELECT FROM stripe_runs WHERE kind = 'restore')
  AND NOT EXISTS (
      SELECT FROM outbox e WHERE e.donation_id = o.donation_id AND e.id < o.id AND e.state IN ('queued', 'sending'))
ORDER BY due_at, id
LIMIT %(limit)s

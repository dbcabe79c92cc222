-- Deletes who began no payment within the last hour. `at` is the present time, for tests; null is now(). A row that
-- begin_checkout.sql has locked is left for the next time: it locks two rows, and each could wait for the other.
DELETE FROM checkout_starts
WHERE source IN (SELECT source FROM checkout_starts
                 WHERE started_at[cardinality(started_at)] <= coalesce(%(at)s, now()) - interval '1 hour'
                 FOR UPDATE SKIP LOCKED)

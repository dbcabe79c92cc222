-- Deletes who began no payment within the last hour. `at` is the present time, for tests; null is now().
DELETE FROM checkout_starts
WHERE started_at[cardinality(started_at)] <= coalesce(%(at)s, now()) - interval '1 hour'

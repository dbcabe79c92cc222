-- Deletes what was counted 24 hours ago, and of each kind the rows that are too many: those with the fewest failures, of
-- these the oldest. Under the lock of count_attempts.sql.
SELECT pg_advisory_xact_lock(coalesce(hashtextextended(nullif(current_schema(), 'public'), 5011684213), 5011684213));
DELETE FROM payment_attempts a
USING (
    SELECT kind, subject, hour, row_number() OVER (PARTITION BY kind ORDER BY failures DESC, hour DESC, subject) AS place
    FROM payment_attempts
) ranked
WHERE (a.kind, a.subject, a.hour) = (ranked.kind, ranked.subject, ranked.hour)
  AND (a.hour <= now() - interval '24 hours' OR ranked.place > %(rows)s)

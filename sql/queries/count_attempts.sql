-- Adds the attempts to pay of one minute to their hours. The worst minute of an hour is the one with the most failures,
-- among those of which at least so many percent failed: in a rush of honest donors many fail, and more succeed. A hash that
-- has not failed lately is not stored. One process at a time, so that no two wait for each other.
SELECT pg_advisory_xact_lock(coalesce(hashtextextended(nullif(current_schema(), 'public'), 5011684213), 5011684213));
WITH counted AS MATERIALIZED (
    SELECT *
    FROM json_to_recordset(%(counts)s) AS c(kind text, subject text, minute bigint, attempts bigint, failures bigint)
    WHERE c.kind <> 'hash' OR c.failures > 0
       OR EXISTS (SELECT FROM payment_attempts p WHERE p.kind = 'hash' AND p.subject = c.subject)
)
INSERT INTO payment_attempts AS a
       (kind, subject, hour, attempts, failures, minute, minute_attempts, minute_failures, worst_minute)
SELECT c.kind, c.subject, to_timestamp(c.minute / 3600 * 3600), c.attempts, c.failures, to_timestamp(c.minute),
       c.attempts, c.failures, CASE WHEN c.failures * 100 >= c.attempts * %(percent)s THEN c.failures ELSE 0 END
FROM counted c
ON CONFLICT (kind, subject, hour) DO UPDATE SET
    attempts = a.attempts + excluded.attempts,
    failures = a.failures + excluded.failures,
    minute = greatest(a.minute, excluded.minute),
    minute_attempts = CASE
        WHEN a.minute = excluded.minute THEN a.minute_attempts + excluded.minute_attempts
        WHEN a.minute < excluded.minute THEN excluded.minute_attempts
        ELSE a.minute_attempts
    END,
    minute_failures = CASE
        WHEN a.minute = excluded.minute THEN a.minute_failures + excluded.minute_failures
        WHEN a.minute < excluded.minute THEN excluded.minute_failures
        ELSE a.minute_failures
    END,
    worst_minute = CASE
        WHEN a.minute <> excluded.minute THEN greatest(a.worst_minute, excluded.worst_minute)
        WHEN (a.minute_failures + excluded.minute_failures) * 100
             >= (a.minute_attempts + excluded.minute_attempts) * %(percent)s
        THEN greatest(a.worst_minute, a.minute_failures + excluded.minute_failures)
        ELSE a.worst_minute
    END

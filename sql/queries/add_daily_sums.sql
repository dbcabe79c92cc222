-- Adds at most `count` more entries of the journal to the daily sums of a time zone, and returns how many there were; no
-- row if another process adds some at this moment.
WITH state AS MATERIALIZED (
    SELECT seq FROM daily_sums_state WHERE time_zone = %(time_zone)s FOR UPDATE SKIP LOCKED
), entries AS MATERIALIZED (
    SELECT e.* FROM ledger_entries e, state WHERE e.seq > state.seq AND e.seq <= state.seq + %(count)s
), added AS (
    INSERT INTO daily_sums AS s (time_zone, ticket_id, day, currency, kind, amount_minor)
    SELECT %(time_zone)s, CASE WHEN grouping(ticket_id) = 1 THEN '*' ELSE ticket_id END, day, currency, kind,
           sum(amount_minor)
    FROM (SELECT *, (effective_at AT TIME ZONE %(time_zone)s)::date AS day FROM entries) dated
    GROUP BY GROUPING SETS ((ticket_id, day, currency, kind), (day, currency, kind))
    ON CONFLICT (time_zone, ticket_id, day, currency, kind) DO UPDATE SET amount_minor = s.amount_minor + excluded.amount_minor
)
UPDATE daily_sums_state SET seq = state.seq + (SELECT count(*) FROM entries), added_at = now()
FROM state WHERE time_zone = %(time_zone)s
RETURNING (SELECT count(*) FROM entries) AS entries

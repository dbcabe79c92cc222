-- Adds what is new of some payouts, one row for each. The caller has the lock of lock_balance.sql.
WITH given AS (
    SELECT * FROM json_to_recordset(%(rows)s::json) AS g(
        id text, created bigint, arrival bigint, currency text, amount bigint, status text, method text, reconciliation text)
), news AS (
    SELECT id, to_timestamp(created) AS created_at, (to_timestamp(arrival) AT TIME ZONE 'UTC')::date AS arrival_date,
           currency, amount AS amount_minor, status, method, reconciliation
    FROM given
    EXCEPT
    SELECT k.* FROM given g CROSS JOIN LATERAL (
        SELECT id, created_at, arrival_date, currency, amount_minor, status, method, reconciliation
        FROM payouts WHERE id = g.id ORDER BY seq DESC LIMIT 1
    ) k
), last AS MATERIALIZED (
    SELECT coalesce(max(seq), 0) AS seq, greatest(max(recorded_at), clock_timestamp()) AS recorded_at
    FROM (SELECT seq, recorded_at FROM payouts ORDER BY seq DESC LIMIT 1) newest
)
INSERT INTO payouts (seq, recorded_at, id, created_at, arrival_date, currency, amount_minor, status, method, reconciliation)
SELECT last.seq + row_number() OVER (ORDER BY n.created_at, n.id), last.recorded_at, n.*
FROM news n CROSS JOIN last
RETURNING id

-- Reserves the time at which one more call of this name may begin, for all processes together, unless it is %(within_s)s
-- seconds away or more. One row: whether it is reserved, in how many seconds the call may begin, and whether calls are
-- paused. `at` is the present time, for tests; null is now().
WITH given AS MATERIALIZED (
    SELECT coalesce(%(at)s, now()) AS at, make_interval(secs => %(interval_s)s) AS step,
           make_interval(secs => %(lead_s)s) AS lead
), reserved AS (
    INSERT INTO rate_limits AS r (name, full_at, paused_until)
    SELECT %(name)s, at + step, at FROM given
    ON CONFLICT (name) DO UPDATE
    SET full_at = (greatest(r.full_at, r.paused_until, EXCLUDED.paused_until) AT TIME ZONE 'UTC'
                   + make_interval(secs => %(interval_s)s)) AT TIME ZONE 'UTC'
    WHERE r.paused_until - EXCLUDED.paused_until < make_interval(secs => %(within_s)s)
      AND r.full_at - EXCLUDED.paused_until < make_interval(secs => %(lead_s)s + %(within_s)s)
    RETURNING paused_until, full_at - (SELECT step FROM given) AS full_at
), decided AS (
    SELECT true AS is_reserved, paused_until, full_at FROM reserved
    UNION ALL
    SELECT false, paused_until, full_at FROM rate_limits WHERE name = %(name)s AND NOT EXISTS (SELECT FROM reserved)
)
SELECT is_reserved, extract(epoch FROM greatest(at, paused_until, full_at - lead) - at)::float8 AS wait_s,
       paused_until > at AS is_paused
FROM decided, given

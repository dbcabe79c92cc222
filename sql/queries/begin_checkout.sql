-- Counts one more payment that begins, unless its source, or all together, began as many as they may within their time. One
-- row: whether it is counted, and otherwise how many seconds to wait. `at` is the present time, for tests; null is now().
-- Payments that begin at the same moment wait for each other's rows, so that none is counted beyond a limit.
WITH limits AS MATERIALIZED (
    SELECT l.source, l.most, l.span, coalesce(%(at)s, now()) AS at,
           (SELECT s.started_at[cardinality(s.started_at) - l.most + 1] FROM checkout_starts s WHERE s.source = l.source)
           + l.span AS reached_until
    FROM (VALUES (%(source)s, %(per_address)s, interval '1 hour'), (-1, %(in_total)s, interval '1 minute'))
         AS l (source, most, span)
), counted AS (
    INSERT INTO checkout_starts AS s (source, started_at)
    SELECT source, ARRAY[at] FROM limits
    WHERE NOT EXISTS (SELECT FROM limits WHERE reached_until > at)
    ORDER BY source DESC  -- each locks its own row, and then the one that all need
    ON CONFLICT (source) DO UPDATE
    SET started_at = s.started_at[cardinality(s.started_at) + 2
                                  - CASE s.source WHEN -1 THEN %(in_total)s ELSE %(per_address)s END:] || EXCLUDED.started_at
    WHERE coalesce(EXCLUDED.started_at[1]
                   - s.started_at[cardinality(s.started_at) + 1
                                  - CASE s.source WHEN -1 THEN %(in_total)s ELSE %(per_address)s END]
                   >= CASE s.source WHEN -1 THEN interval '1 minute' ELSE interval '1 hour' END, true)
    RETURNING source
)
SELECT (SELECT count(*) FROM counted) = 2 AS is_counted,
       coalesce(extract(epoch FROM max(reached_until - at)), 0)::float8 AS wait_s
FROM limits

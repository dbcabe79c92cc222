-- The last entry of a moment: of a seq, of the last entry recorded at a time (found by halves, for recorded_at rises with
-- seq), or of the whole journal where both are null. With its time and that of the next entry, which are null where there
-- is none, the journal's last seq, and the clock of the database.
WITH RECURSIVE newest AS (
    SELECT coalesce(max(seq), 0) AS seq FROM ledger_entries
), search(low, high) AS (
    SELECT 0::bigint, seq FROM newest
    UNION ALL
    SELECT CASE WHEN e.recorded_at <= %(time)s THEN s.middle ELSE s.low END,
           CASE WHEN e.recorded_at <= %(time)s THEN s.high ELSE s.middle - 1 END
    FROM (SELECT low, high, (low + high + 1) / 2 AS middle FROM search) s JOIN ledger_entries e ON e.seq = s.middle
    WHERE s.low < s.high AND %(time)s::timestamptz IS NOT NULL
), moment AS (
    SELECT CASE WHEN %(time)s::timestamptz IS NULL THEN least(%(seq)s::bigint, max(high)) ELSE max(low) END AS seq
    FROM search
)
SELECT m.seq, e.recorded_at, n.recorded_at AS next_recorded_at, newest.seq AS last_seq, clock_timestamp() AS now
FROM moment m
CROSS JOIN newest
LEFT JOIN ledger_entries e ON e.seq = m.seq
LEFT JOIN ledger_entries n ON n.seq = m.seq + 1

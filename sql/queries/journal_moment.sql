-- The last entry of a moment: of a seq, of the last entry recorded at a time (found by halves, for recorded_at rises with
-- seq), or of the whole journal where both are null. With its time and that of the next entry, which are null where there
-- is none, the journal's last seq, the clock of the database, and the last balance transaction: of `fees` if that is given and
-- exists, otherwise the last one recorded until the time, or until the entry was; of all where nothing is given.
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
SELECT m.seq, e.recorded_at, n.recorded_at AS next_recorded_at, newest.seq AS last_seq, clock_timestamp() AS now, f.seq AS fees_seq
FROM moment m
CROSS JOIN newest
LEFT JOIN ledger_entries e ON e.seq = m.seq
LEFT JOIN ledger_entries n ON n.seq = m.seq + 1
CROSS JOIN LATERAL (
    SELECT coalesce(max(b.seq), 0) AS seq
    FROM (SELECT seq FROM balance_transactions
          WHERE recorded_at <= CASE WHEN %(time)s::timestamptz IS NOT NULL THEN %(time)s
                                    WHEN %(seq)s::bigint IS NULL OR %(fees)s::bigint IS NOT NULL THEN 'infinity'
                                    ELSE coalesce(e.recorded_at, '-infinity') END
            AND (%(fees)s::bigint IS NULL OR seq <= %(fees)s)
          ORDER BY recorded_at DESC, seq DESC LIMIT 1) b
) f

-- How many entries the journal has, its last seq, and how many entries were recorded before the entry before them.
SELECT count(*), coalesce(max(seq), 0), count(*) FILTER (WHERE recorded_at < recorded_before)
FROM (SELECT seq, recorded_at, lag(recorded_at) OVER (ORDER BY seq) AS recorded_before FROM ledger_entries) entries

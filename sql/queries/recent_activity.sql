-- The journal's last entry (nulls before the first one), and how many entries were recorded in the last hour: of at most the
-- `limit` newest, so that the cost is the same at any rate.
SELECT max(seq) AS seq, max(recorded_at) AS recorded_at,
       count(*) FILTER (WHERE recorded_at > now() - interval '1 hour') AS entries
FROM (SELECT seq, recorded_at FROM ledger_entries ORDER BY seq DESC LIMIT %(limit)s) newest

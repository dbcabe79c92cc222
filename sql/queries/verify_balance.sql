-- Whether the numbers of balance transactions and of payouts are complete and in the order of recording.
SELECT 'balance transactions' AS what, count(*) AS rows, coalesce(max(seq), 0) AS last,
       count(*) FILTER (WHERE recorded_at < before) AS unordered
FROM (SELECT seq, recorded_at, lag(recorded_at) OVER (ORDER BY seq) AS before FROM balance_transactions) t
UNION ALL
SELECT 'payouts', count(*), coalesce(max(seq), 0), count(*) FILTER (WHERE recorded_at < before)
FROM (SELECT seq, recorded_at, lag(recorded_at) OVER (ORDER BY seq) AS before FROM payouts) p

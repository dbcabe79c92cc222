-- The rows of balance transactions after one of them, as JSON, as far as closed reports count their fees.
SELECT seq, row_to_json(b)::text AS transaction
FROM balance_transactions b
WHERE seq > %(after)s AND seq <= (SELECT max(fees_seq) FROM closed_reports)
ORDER BY seq

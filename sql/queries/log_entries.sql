-- The journal's entries after one of them, as JSON, as far as closed reports were made from them.
SELECT seq, row_to_json(e)::text AS entry
FROM ledger_entries e
WHERE seq > %(after)s AND seq <= (SELECT max(journal_seq) FROM closed_reports)
ORDER BY seq

-- Of some rows of the operator log, as JSON, those whose numbers the ledger has: the entry or balance transaction of that
-- number, and whether it is the same one.
SELECT 'ledger_entries' AS name, g.seq, to_jsonb(e) = to_jsonb(g) AS is_same
FROM json_populate_recordset(NULL::ledger_entries, %(entries)s::json) g JOIN ledger_entries e USING (seq)
UNION ALL
SELECT 'balance_transactions', g.seq, to_jsonb(b) = to_jsonb(g)
FROM json_populate_recordset(NULL::balance_transactions, %(transactions)s::json) g JOIN balance_transactions b USING (seq)

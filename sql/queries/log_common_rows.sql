-- Of some rows of the operator log, as JSON, those whose numbers the ledger has: the entry, balance transaction, receipt or
-- mail of that number, and whether it is the same one. Receipts and mails are changed, and are the same if they are about
-- the same thing.
SELECT 'ledger_entries' AS name, g.seq::text AS number, to_jsonb(e) = to_jsonb(g) AS is_same
FROM json_populate_recordset(NULL::ledger_entries, %(ledger_entries)s::json) g JOIN ledger_entries e USING (seq)
UNION ALL
SELECT 'balance_transactions', g.seq::text, to_jsonb(b) = to_jsonb(g)
FROM json_populate_recordset(NULL::balance_transactions, %(balance_transactions)s::json) g
JOIN balance_transactions b USING (seq)
UNION ALL
SELECT 'receipts', concat_ws('-', year, number), (r.donation_id, r.issued_at) = (g.donation_id, g.issued_at)
FROM json_populate_recordset(NULL::receipts, %(receipts)s::json) g JOIN receipts r USING (year, number)
UNION ALL
SELECT 'outbox', g.id::text, o.id = g.id AND (o.donation_id, o.kind, o.seq) = (g.donation_id, g.kind, g.seq)
FROM json_populate_recordset(NULL::outbox, %(outbox)s::json) g
JOIN outbox o ON o.id = g.id OR (o.donation_id, o.kind, o.seq) = (g.donation_id, g.kind, g.seq)

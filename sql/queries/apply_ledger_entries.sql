-- Adds the journal's entries that the ledger lacks, with their numbers. $rows: them as JSON.
INSERT INTO ledger_entries
SELECT * FROM json_populate_recordset(NULL::ledger_entries, %(rows)s::json)
ON CONFLICT (seq) DO NOTHING

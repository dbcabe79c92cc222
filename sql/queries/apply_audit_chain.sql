-- Adds the places of the audit chain that the ledger lacks. $rows: them as JSON.
INSERT INTO audit_chain
SELECT * FROM json_populate_recordset(NULL::audit_chain, %(rows)s::json)
ON CONFLICT (number) DO NOTHING

-- Adds the operators' actions of the operator log that the ledger lacks, with their ids. $rows: them as JSON.
INSERT INTO operator_acts OVERRIDING SYSTEM VALUE
SELECT * FROM json_populate_recordset(NULL::operator_acts, %(rows)s::json)
ON CONFLICT (id) DO NOTHING

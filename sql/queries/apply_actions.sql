-- Adds the operators' actions of the operator log that the ledger lacks, with their ids and places in the audit chain, both
-- or neither. $operator_acts, $audit_chain: them as JSON.
WITH added AS (
    INSERT INTO operator_acts OVERRIDING SYSTEM VALUE
    SELECT * FROM json_populate_recordset(NULL::operator_acts, %(operator_acts)s::json)
    ON CONFLICT (id) DO NOTHING
)
INSERT INTO audit_chain
SELECT * FROM json_populate_recordset(NULL::audit_chain, %(audit_chain)s::json)
ON CONFLICT (number) DO NOTHING

-- Adds and changes receipts as the operator log has them, unless the ledger's were changed later. $rows: them as JSON, at
-- most one for each number.
INSERT INTO receipts AS known
SELECT * FROM json_populate_recordset(NULL::receipts, %(rows)s::json)
ON CONFLICT (year, number) DO UPDATE SET
    voided_at = excluded.voided_at, pdf_sha256 = excluded.pdf_sha256, template = excluded.template,
    changed_at = excluded.changed_at
WHERE known.changed_at < excluded.changed_at

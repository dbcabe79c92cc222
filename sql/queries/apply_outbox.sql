-- Adds and changes mails as the operator log has them, unless the ledger's were changed later. $rows: them as JSON, at most
-- one for each mail.
INSERT INTO outbox AS known OVERRIDING SYSTEM VALUE
SELECT * FROM json_populate_recordset(NULL::outbox, %(rows)s::json)
ON CONFLICT (id) DO UPDATE SET
    queued_at = excluded.queued_at, due_at = excluded.due_at, attempts = excluded.attempts, state = excluded.state,
    changed_at = excluded.changed_at, reason = excluded.reason, smtp_code = excluded.smtp_code,
    receipt_year = excluded.receipt_year, receipt_number = excluded.receipt_number
WHERE known.changed_at < excluded.changed_at

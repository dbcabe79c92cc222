-- Adds the journal's entries that the ledger lacks, with their numbers. $rows: them as JSON. What was known of the entries
-- of their donations does not hold any more: the next write of each compares them with the journal.
WITH added AS (
    INSERT INTO ledger_entries
    SELECT * FROM json_populate_recordset(NULL::ledger_entries, %(rows)s::json)
    ON CONFLICT (seq) DO NOTHING
    RETURNING donation_id
)
UPDATE stripe_attributions SET entries_digest = NULL
WHERE id IN (SELECT o.root FROM added JOIN stripe_objects o ON o.id = added.donation_id)

-- One process at a time adds to the audit chain. As lock_ledger.sql: a statement of its own, so that the next one sees
-- what the last process added. A process that needs both locks has taken the ledger's before.
SELECT pg_advisory_xact_lock(coalesce(hashtextextended(nullif(current_schema(), 'public'), 5011684203), 5011684203))

-- One migration of this schema at a time (keys: lock_ledger.sql).
SELECT pg_advisory_xact_lock(coalesce(hashtextextended(nullif(current_schema(), 'public'), 5011684201), 5011684201))

-- One writer of balance transactions and payouts at a time, so that their `seq` becomes visible in order; as lock_ledger.sql,
-- which no writer of these tables takes: events never wait for them.
SELECT pg_advisory_xact_lock(coalesce(hashtextextended(nullif(current_schema(), 'public'), 5011684220), 5011684220))

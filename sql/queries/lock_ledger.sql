-- One writer at a time, for the milliseconds that a batch takes: no deadlock and no lost update can happen. The lock is
-- taken by a statement of its own, because a statement sees what was committed when it begins: one that waited for the
-- lock itself would check and write rows that it read before. The lock ends with the transaction, after its commit is on
-- disk and visible (PostgreSQL: CommitTransaction), so `seq` becomes visible in order.
--
-- The key is that of this schema's ledger, as in the other lock_ files: ledgers of one database do not wait for each other.
-- In the schema public it is the number that releases before LEDGER_SCHEMA use: during an upgrade these write there too.
SELECT pg_advisory_xact_lock(coalesce(hashtextextended(nullif(current_schema(), 'public'), 5011684202), 5011684202))

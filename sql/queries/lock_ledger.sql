-- One writer at a time, for the milliseconds that a batch takes: no deadlock and no lost update can happen. The lock ends
-- with the transaction, and is taken by a statement of its own, so that the next one sees what the last writer wrote.
SELECT pg_advisory_xact_lock(5011684202)

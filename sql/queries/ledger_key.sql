-- A key of this ledger.
SELECT key FROM ledger_keys WHERE name = %(name)s

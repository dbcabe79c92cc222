-- Adds the rows of balance transactions that the ledger lacks, with their numbers. $rows: them as JSON.
INSERT INTO balance_transactions
SELECT * FROM json_populate_recordset(NULL::balance_transactions, %(rows)s::json)
ON CONFLICT (seq) DO NOTHING

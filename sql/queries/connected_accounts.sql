-- The connected accounts that donations belong to. Reads the whole ledger.
SELECT DISTINCT account FROM stripe_attributions WHERE account IS NOT NULL ORDER BY account

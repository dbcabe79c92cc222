-- The facts that contain one of these e-mail hashes. Reads the whole ledger: an erasure is rare, an index would not be.
SELECT facts FROM stripe_attributions WHERE facts::text LIKE ANY (%(patterns)s)
UNION ALL
SELECT facts FROM stripe_billing WHERE facts::text LIKE ANY (%(patterns)s)

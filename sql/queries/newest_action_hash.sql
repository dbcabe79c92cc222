-- The newest hash of the audit chain, in hexadecimal digits; no row while the chain is empty.
SELECT encode(hash, 'hex') AS hash FROM audit_chain ORDER BY number DESC LIMIT 1

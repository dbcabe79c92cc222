-- The hash that the audit chain has at a number, in hexadecimal digits; null if it lacks that place.
SELECT (SELECT encode(hash, 'hex') FROM audit_chain WHERE number = %(number)s) AS hash

-- The audit chain's hash at some numbers that it has, in hexadecimal digits.
SELECT number, encode(hash, 'hex') AS hash FROM audit_chain WHERE number = ANY (%(numbers)s)

-- What the startup gate compares with the operator log: the hash that the audit chain has at a number, in hexadecimal digits
-- (null if it lacks that place), and the greatest id of a mail.
SELECT (SELECT encode(hash, 'hex') FROM audit_chain WHERE number = %(number)s) AS hash,
       (SELECT coalesce(max(id), 0) FROM outbox) AS mails

-- What the operator log is compared with: the time of the ledger's first migration, which identifies it; the hash that the
-- audit chain has at a number (null if it lacks that place), how many actions are in the chain, the greatest id of a mail,
-- which mail has a given id (null if it lacks that), and the present time.
SELECT (SELECT min(applied_at) FROM schema_migrations) AS began_at,
       (SELECT encode(hash, 'hex') FROM audit_chain WHERE number = %(number)s) AS hash,
       (SELECT coalesce(max(number), 0) FROM audit_chain) AS actions,
       (SELECT coalesce(max(id), 0) FROM outbox) AS mails,
       (SELECT concat_ws(' ', donation_id, kind, seq) FROM outbox WHERE id = %(mail)s) AS mail, now() AS now

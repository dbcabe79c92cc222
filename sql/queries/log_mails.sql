-- The mails that were changed since a time, as JSON.
SELECT id, row_to_json(o)::text AS mail FROM outbox o WHERE changed_at >= %(since)s ORDER BY changed_at, id

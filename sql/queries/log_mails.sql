-- The mails that were changed since a time, as JSON, each with its id and with what it is about.
SELECT id, concat_ws(' ', donation_id, kind, seq) AS mail, row_to_json(o)::text AS row
FROM outbox o WHERE changed_at >= %(since)s ORDER BY changed_at, id

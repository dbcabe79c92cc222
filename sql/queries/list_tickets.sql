-- Every ticket, oldest first.
SELECT id, title, currency, created_at FROM recording_tickets ORDER BY created_at, id

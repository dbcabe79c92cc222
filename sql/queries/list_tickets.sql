-- Tickets, oldest first, after the place (after_created, after_id): -infinity and '' for the first page; all of them
-- without a limit.
SELECT id, title, currency, goal_minor, state, created_at FROM recording_tickets
WHERE created_at >= %(after_created)s AND (created_at > %(after_created)s OR id > %(after_id)s)
ORDER BY created_at, id
LIMIT %(limit)s

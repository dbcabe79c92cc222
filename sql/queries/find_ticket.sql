-- One ticket; no row if there is none.
SELECT id, title, currency, goal_minor, state, created_at FROM recording_tickets WHERE id = %(id)s

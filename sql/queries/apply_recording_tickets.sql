-- Adds and changes tickets as the operator log has them. $rows: them as JSON, at most one for each ticket.
INSERT INTO recording_tickets
SELECT * FROM json_populate_recordset(NULL::recording_tickets, %(rows)s::json)
ON CONFLICT (id) DO UPDATE SET
    title = excluded.title, currency = excluded.currency, goal_minor = excluded.goal_minor, state = excluded.state

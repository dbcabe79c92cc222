-- Adds events that could not be applied and were dismissed, and dismisses those that are there. One that was applied since
-- stays so. $rows: them as JSON, at most one for each event.
INSERT INTO stripe_events AS known
SELECT * FROM json_populate_recordset(NULL::stripe_events, %(rows)s::json)
ON CONFLICT (id) DO UPDATE SET dismissed_at = excluded.dismissed_at WHERE known.error IS NOT NULL

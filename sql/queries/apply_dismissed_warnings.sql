-- Dismisses the early fraud warnings of the operator log. $rows: them as JSON.
INSERT INTO dismissed_warnings
SELECT * FROM json_populate_recordset(NULL::dismissed_warnings, %(rows)s::json)
ON CONFLICT (id) DO NOTHING

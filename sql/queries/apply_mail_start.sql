-- Sets since when donations are thanked for, where that has not begun. $rows: the row as JSON.
INSERT INTO mail_start
SELECT * FROM json_populate_recordset(NULL::mail_start, %(rows)s::json)
ON CONFLICT (is_only) DO NOTHING

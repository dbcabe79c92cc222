-- Adds the closed reports that the ledger lacks. $rows: them as JSON.
INSERT INTO closed_reports
SELECT * FROM json_populate_recordset(NULL::closed_reports, %(rows)s::json)
ON CONFLICT (period, time_zone, version) DO NOTHING

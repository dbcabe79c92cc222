-- The runs of the gate and changes of state that were recorded before the one of the cursor (or all), newest first.
SELECT id, at, kind, ok, state, detail
FROM health_check_runs
WHERE %(before)s::bigint IS NULL OR id < %(before)s
ORDER BY id DESC LIMIT %(limit)s

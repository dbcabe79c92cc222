-- The newest runs of the gate and changes of state, newest first.
SELECT kind, ok, state, detail, at
FROM health_check_runs
ORDER BY at DESC, id DESC
LIMIT %(limit)s

-- A pass of a job has ended. `problems` is null if it could not find out how many there are: then the number stays.
UPDATE job_runs SET
    ended_at = clock_timestamp(),
    outcome = %(outcome)s,
    failures = CASE WHEN %(outcome)s = 'succeeded' THEN 0 ELSE failures + 1 END,
    detail = %(detail)s,
    problems = coalesce(%(problems)s, problems),
    succeeded_at = CASE WHEN %(outcome)s = 'succeeded' THEN clock_timestamp() ELSE succeeded_at END
WHERE job = %(job)s

-- A pass of a job has ended. `problems` is null if it could not find out how many there are: then the number stays.
WITH moment AS MATERIALIZED (SELECT clock_timestamp() AS at)
UPDATE job_runs SET
    ended_at = moment.at,
    outcome = %(outcome)s,
    failures = CASE WHEN %(outcome)s = 'succeeded' THEN 0 ELSE failures + 1 END,
    detail = %(detail)s,
    problems = coalesce(%(problems)s, problems),
    succeeded_at = CASE WHEN %(outcome)s = 'succeeded' THEN moment.at ELSE succeeded_at END
FROM moment
WHERE job = %(job)s

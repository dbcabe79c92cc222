-- A pass of a job begins. What the last pass found stays until this one ends.
INSERT INTO job_runs (job, every_s, host, started_at, outcome)
VALUES (%(job)s, %(every_s)s, %(host)s, clock_timestamp(), 'running')
ON CONFLICT (job) DO UPDATE SET
    every_s = excluded.every_s, host = excluded.host, started_at = excluded.started_at, ended_at = NULL, outcome = 'running'

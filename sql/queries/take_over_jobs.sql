-- A process takes the jobs over: a pass that still runs was interrupted, and jobs that the configuration does not ask for
-- any more have no row. Returns how many seconds ago each job last succeeded, and how many problems it found.
WITH removed AS (
    DELETE FROM job_runs WHERE job <> ALL (%(jobs)s)
), interrupted AS (
    UPDATE job_runs SET outcome = 'interrupted' WHERE outcome = 'running' AND job = ANY (%(jobs)s)
)
SELECT job, greatest(extract(epoch FROM clock_timestamp() - succeeded_at), 0)::float8 AS succeeded_s_ago, problems
FROM job_runs WHERE job = ANY (%(jobs)s) AND succeeded_at IS NOT NULL

-- The newest pass of each job. Times are Unix seconds; `last_success` is the first pass while none has succeeded.
SELECT job, every_s, host, outcome, detail, problems, failures,
       extract(epoch FROM started_at)::float8 AS started,
       extract(epoch FROM ended_at)::float8 AS ended,
       extract(epoch FROM coalesce(succeeded_at, first_at))::float8 AS last_success
FROM job_runs ORDER BY job

-- The newest pass of each job of the jobs process (SPEC 12), for `donationd status`, for alerts, and for the process that
-- takes the jobs over: it begins a job when it is due.
CREATE TABLE job_runs (
    job          text PRIMARY KEY CONSTRAINT job_form CHECK (job ~ '^[a-z_]{1,40}$'),
    every_s      integer NOT NULL CONSTRAINT job_interval CHECK (every_s > 0),
    host         text NOT NULL CONSTRAINT job_host_length CHECK (length(host) <= 255),
    first_at     timestamptz NOT NULL DEFAULT now(),
    started_at   timestamptz NOT NULL,
    ended_at     timestamptz,  -- null while it runs, and after an interruption
    outcome      text NOT NULL
                 CONSTRAINT job_outcome_known CHECK (outcome IN ('running', 'succeeded', 'failed', 'interrupted')),
    failures     integer NOT NULL DEFAULT 0 CONSTRAINT job_failures_count CHECK (failures >= 0),  -- since the last success
    detail       text NOT NULL DEFAULT '' CONSTRAINT job_detail_length CHECK (length(detail) <= 1000),
    problems     integer NOT NULL DEFAULT 0 CONSTRAINT job_problems_count CHECK (problems >= 0),  -- for an operator
    succeeded_at timestamptz
);

-- How far the pass of a job is.
UPDATE job_runs SET detail = %(detail)s WHERE job = %(job)s AND outcome = 'running'

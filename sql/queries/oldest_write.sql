-- When the oldest of this role's transactions began that have written something and have not ended; the present time if there
-- is none. It may wait for a synchronous standby for as long as that is away.
SELECT coalesce(min(xact_start), now()) AS began_at
FROM pg_stat_activity
WHERE datname = current_database() AND backend_xid IS NOT NULL

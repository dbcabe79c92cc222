-- The server's process that works for this session, and since when: no two sessions have the same.
SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()

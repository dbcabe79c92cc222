-- Takes a lock that lasts as long as this session, and no longer than `idle_timeout` after its last statement: so it also
-- ends where the host or the network of its holder has vanished. The key is that of this schema's ledger.
--
-- A pooler in transaction mode lets several clients use one session, and a session may take its lock twice. The token
-- shows that: it is set with the lock, in the same statement, and a session that has one already belongs to another client.
WITH attempt AS MATERIALIZED (
    SELECT CASE
        WHEN pg_is_in_recovery() THEN 'standby'
        WHEN coalesce(current_setting('donationd.lock_token', true), '') <> '' THEN 'shared'
        WHEN pg_try_advisory_lock(hashtextextended(current_schema() || '.' || %(name)s, 0)) THEN 'acquired'
        ELSE 'held'
    END AS result
)
SELECT result,
       CASE WHEN result = 'acquired' THEN set_config('donationd.lock_token', %(token)s, false) END,
       CASE WHEN result = 'acquired' THEN set_config('idle_session_timeout', %(idle_timeout)s, false) END
FROM attempt

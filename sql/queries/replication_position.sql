-- Where a server is in the write-ahead log, what identifies it, the newest entry of its journal, and whether it has the
-- entry `seq` of `recorded_at` (0: no entry, which every server has). What a primary has acknowledged is before its
-- position. The identity is the same in all copies of a cluster.
SELECT control.system_identifier || '/' || db.oid AS identity,
       pg_is_in_recovery() AS is_standby,
       (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END - '0/0')::bigint
           AS wal_bytes,
       coalesce(newest.seq, 0) AS seq, newest.recorded_at,
       %(seq)s = 0 OR EXISTS (SELECT FROM ledger_entries WHERE seq = %(seq)s AND recorded_at = %(recorded_at)s) AS has_entry
FROM pg_control_system() control
JOIN pg_database db ON db.datname = current_database()
LEFT JOIN (SELECT seq, recorded_at FROM ledger_entries ORDER BY seq DESC LIMIT 1) newest ON true

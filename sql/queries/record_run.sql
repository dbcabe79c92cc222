-- Records a gate run or a change of state. Writing it twice leaves one row: after a crash between the insert and its
-- note, it is sent again.
INSERT INTO health_check_runs (kind, ok, state, detail, at)
SELECT %(kind)s, %(ok)s, %(state)s, %(detail)s, %(at)s::timestamptz
WHERE NOT EXISTS (
    SELECT FROM health_check_runs
    WHERE at = %(at)s::timestamptz AND kind = %(kind)s AND state = %(state)s
)

-- The journal's last entry in this snapshot, or the last one up to a number, or up to a time of recording (the other is
-- null); 0 before the first. `taken_at` is the time of the snapshot.
SELECT coalesce((SELECT e.seq FROM ledger_entries e
                 WHERE (%(seq)s::bigint IS NULL OR e.seq <= %(seq)s)
                   AND (%(time)s::timestamptz IS NULL OR e.recorded_at <= %(time)s)
                 ORDER BY e.seq DESC LIMIT 1), 0) AS seq,
       extract(epoch FROM now())::bigint AS taken_at

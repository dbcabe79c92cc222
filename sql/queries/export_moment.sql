-- The journal's last entry in this snapshot, or the last one up to a number (null for none), and the same of
-- balance_transactions (`fees`); 0 before the first. `taken_at` is the time of the snapshot.
SELECT coalesce((SELECT e.seq FROM ledger_entries e
                 WHERE %(seq)s::bigint IS NULL OR e.seq <= %(seq)s
                 ORDER BY e.seq DESC LIMIT 1), 0) AS seq,
       coalesce((SELECT t.seq FROM balance_transactions t
                 WHERE %(fees)s::bigint IS NULL OR t.seq <= %(fees)s
                 ORDER BY t.seq DESC LIMIT 1), 0) AS fees_seq,
       extract(epoch FROM now())::bigint AS taken_at

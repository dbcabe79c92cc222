-- Everything that a restored ledger must have as the lost one had it, each row as JSON, by kind and row. `version` counts
-- writes, `entries_digest` contains it, and `seq` and `recorded_at` of entries and fees are new, but for those that closed
-- reports were made from. Corrections that wait are queued anew. What the jobs and the sidecar do is no part of the ledger.
SELECT kind, row::text
FROM (
    SELECT 'donations' AS kind, to_jsonb(a) - ARRAY['version', 'derived_version', 'entries_digest', 'facts'] AS row
    FROM stripe_attributions a
    UNION ALL
    SELECT 'objects', to_jsonb(o) FROM stripe_objects o
    UNION ALL
    SELECT 'totals', to_jsonb(t) FROM ticket_totals t WHERE (paid, refunded, disputed) <> (0, 0, 0)
    UNION ALL
    SELECT 'sums by time', to_jsonb(s)
    FROM (SELECT donation_id, ticket_id, currency, kind, object_id, effective_at, sum(amount_minor) AS amount
          FROM ledger_entries GROUP BY 1, 2, 3, 4, 5, 6 HAVING sum(amount_minor) <> 0) s
    UNION ALL
    SELECT 'filed entries', to_jsonb(e) FROM ledger_entries e WHERE seq <= (SELECT max(journal_seq) FROM closed_reports)
    UNION ALL
    SELECT 'closed reports', to_jsonb(r) FROM closed_reports r
    UNION ALL
    SELECT 'events', to_jsonb(e) - 'processed_at' FROM stripe_events e
    UNION ALL
    SELECT 'dismissed warnings', to_jsonb(w) FROM dismissed_warnings w
    UNION ALL
    SELECT 'tickets', to_jsonb(t) FROM recording_tickets t
    UNION ALL
    SELECT 'operator actions', to_jsonb(a) FROM operator_acts a
    UNION ALL
    SELECT 'audit chain', to_jsonb(c) FROM audit_chain c
    UNION ALL
    SELECT 'receipts', to_jsonb(r) FROM receipts r
    UNION ALL
    SELECT 'mails', to_jsonb(o) FROM outbox o WHERE (kind, state) <> ('correction', 'queued')
    UNION ALL
    SELECT 'mails', to_jsonb(m) FROM mail_start m
    UNION ALL
    SELECT 'keys', to_jsonb(k) FROM ledger_keys k
    UNION ALL
    SELECT 'fees', to_jsonb(b) - ARRAY['seq', 'recorded_at']
    FROM (SELECT DISTINCT ON (id) * FROM balance_transactions ORDER BY id, seq DESC) b
    UNION ALL
    SELECT 'filed fees', to_jsonb(b) FROM balance_transactions b WHERE seq <= (SELECT max(fees_seq) FROM closed_reports)
    UNION ALL
    SELECT 'payouts', to_jsonb(p) - ARRAY['seq', 'recorded_at']
    FROM (SELECT DISTINCT ON (id) * FROM payouts ORDER BY id, seq DESC) p
) compared
ORDER BY kind, row::text COLLATE "C"

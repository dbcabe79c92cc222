-- Where the ledger stands, and whether it still has what a host has seen of it before; what the host has not seen is null.
--
-- `began_at`, the time of the first migration, identifies the ledger: every copy of it has the same, whatever server it is
-- in, and no other ledger has. Entries and operator actions are never removed, and applied events only after 30 days, by
-- `donationd prune`. The recent event comes from the last pages of its table, where rows are added: no index has
-- the order of events. `common_at` is the time of the newest entry that was recorded until `seen_until`, the time of the newest
-- row that the host has seen: later ones may have been added since the database went back.
WITH entry AS (
    SELECT seq, recorded_at FROM ledger_entries ORDER BY seq DESC LIMIT 1
), event AS (
    SELECT id, processed_at FROM stripe_events
    WHERE ctid >= (SELECT format('(%%s,0)', greatest(pages - 8, 0))::tid
                   FROM (SELECT pg_relation_size('stripe_events') / current_setting('block_size')::int AS pages) p)
    ORDER BY processed_at DESC, id LIMIT 1
), action AS (
    SELECT id, at FROM operator_acts ORDER BY id DESC LIMIT 1
)
SELECT (SELECT min(applied_at) FROM schema_migrations) AS began_at,
       pg_is_in_recovery() AS is_standby,
       entry.seq::text, entry.recorded_at, event.id, event.processed_at, action.id::text, action.at,
       EXISTS (SELECT FROM ledger_entries WHERE seq = %(entry)s::bigint AND recorded_at = %(entry_at)s) AS has_entry,
       EXISTS (SELECT FROM stripe_events WHERE id = %(event)s) OR %(event_at)s < now() - interval '30 days' AS has_event,
       EXISTS (SELECT FROM operator_acts WHERE id = %(action)s::bigint AND at = %(action_at)s) AS has_action,
       (SELECT recorded_at FROM ledger_entries WHERE seq <= %(entry)s::bigint AND recorded_at <= %(seen_until)s
        ORDER BY seq DESC LIMIT 1) AS common_at
FROM (SELECT) one LEFT JOIN entry ON true LEFT JOIN event ON true LEFT JOIN action ON true

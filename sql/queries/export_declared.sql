-- The accounts that the entries up to one number, and fees up to another, use, as the ticket, currency and kind that name
-- them: what an earlier part of a journal has declared. The other filters are those of export_entries.sql.
SELECT DISTINCT e.kind, nullif(e.ticket_id, '') AS ticket_id, nullif(e.currency, '') AS currency
FROM ledger_entries e
WHERE e.seq <= %(after)s
  AND (%(ticket)s::text IS NULL OR e.ticket_id = %(ticket)s)
  AND (%(currency)s::text IS NULL OR e.currency = %(currency)s)
  AND (%(from_s)s::bigint IS NULL OR e.effective_at >= to_timestamp(%(from_s)s))
  AND (%(to_s)s::bigint IS NULL OR e.effective_at < to_timestamp(%(to_s)s))
UNION ALL
SELECT DISTINCT 'fee', NULL, t.currency
FROM balance_transactions t
WHERE t.seq <= %(fees_after)s AND (%(currency)s::text IS NULL OR t.currency = %(currency)s)

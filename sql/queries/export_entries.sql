-- The journal's entries after one number and up to another, in their order. The period counts by the time when the money
-- moved, and does not contain its end. Times are Unix seconds, `recorded_us` Unix microseconds; null: no ticket, or no
-- known currency.
SELECT e.seq, (extract(epoch FROM e.recorded_at) * 1000000)::bigint AS recorded_us,
       extract(epoch FROM e.effective_at)::bigint AS effective_at, e.kind, e.donation_id,
       nullif(e.ticket_id, '') AS ticket_id, k.title AS ticket_title, e.amount_minor, nullif(e.currency, '') AS currency,
       e.object_id, e.cause
FROM ledger_entries e
LEFT JOIN recording_tickets k ON k.id = e.ticket_id
WHERE e.seq > %(after)s AND e.seq <= %(seq)s
  AND (%(ticket)s::text IS NULL OR e.ticket_id = %(ticket)s)
  AND (%(currency)s::text IS NULL OR e.currency = %(currency)s)
  AND (%(from_s)s::bigint IS NULL OR e.effective_at >= to_timestamp(%(from_s)s))
  AND (%(to_s)s::bigint IS NULL OR e.effective_at < to_timestamp(%(to_s)s))
ORDER BY e.seq

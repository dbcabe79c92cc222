-- The entries of one part of the journal whose money moved from `begin` to before `end` (Unix seconds), in order.
SELECT seq, recorded_at, effective_at, donation_id, ticket_id, currency, kind, object_id, amount_minor, cause
FROM ledger_entries
WHERE seq > %(after)s AND seq <= %(seq)s
  AND effective_at >= to_timestamp(%(begin)s) AND effective_at < to_timestamp(%(end)s)
ORDER BY seq

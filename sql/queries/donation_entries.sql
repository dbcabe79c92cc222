-- The journal's entries of some donations.
SELECT seq, recorded_at, extract(epoch FROM effective_at)::bigint AS effective_at, donation_id, ticket_id, currency, kind,
       object_id, amount_minor, cause
FROM ledger_entries
WHERE donation_id = ANY (%(ids)s)
ORDER BY seq

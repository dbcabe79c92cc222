-- What the journal holds of some donations, as sums per donation, ticket, currency, kind, object and time.
SELECT donation_id, ticket_id, currency, kind, object_id, extract(epoch FROM effective_at)::bigint,
       sum(amount_minor)::bigint
FROM ledger_entries
WHERE donation_id = ANY (%(ids)s)
GROUP BY 1, 2, 3, 4, 5, 6
HAVING sum(amount_minor) <> 0

-- The fees of one part of the balance transactions, of those that were booked from `begin` to before `end` (Unix seconds),
-- as they were known after `seq`: per currency, category and ticket. The ticket is that of the donation after an entry of
-- the journal ('': none); `ticket` null: of all tickets. `amount` is what transactions that are fees themselves cost.
SELECT t.currency, coalesce(k.ticket_id, '') AS ticket, t.category, sum(t.fee_minor)::bigint AS fee,
       -sum(t.amount_minor)::bigint AS amount
FROM balance_transactions t
LEFT JOIN LATERAL (
    SELECT ticket_id FROM ledger_entries
    WHERE donation_id = t.donation_id AND kind = 'payment' AND seq <= %(journal_seq)s
    GROUP BY ticket_id ORDER BY sum(amount_minor) DESC, ticket_id LIMIT 1
) k ON true
WHERE t.seq > %(after)s AND t.seq <= %(part)s
  AND t.created_at >= to_timestamp(%(begin)s) AND t.created_at < to_timestamp(%(end)s)
  AND NOT EXISTS (SELECT FROM balance_transactions n WHERE n.id = t.id AND n.seq > t.seq AND n.seq <= %(seq)s)
  AND (%(ticket)s::text IS NULL OR coalesce(k.ticket_id, '') = %(ticket)s)
GROUP BY 1, 2, 3

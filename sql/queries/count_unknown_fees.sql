-- How many donations were paid from `begin` to before `end` (Unix seconds), by the journal after an entry, of which no
-- balance transaction was known after `fees_seq`: per currency and ticket. `ticket` null: of all tickets.
SELECT currency, ticket, count(*) AS donations
FROM (
    SELECT e.donation_id, e.currency, e.ticket_id AS ticket
    FROM ledger_entries e
    WHERE e.kind = 'payment' AND e.seq <= %(journal_seq)s
      AND e.effective_at >= to_timestamp(%(begin)s) AND e.effective_at < to_timestamp(%(end)s)
      AND (%(ticket)s::text IS NULL OR e.ticket_id = %(ticket)s)
      AND NOT EXISTS (SELECT FROM balance_transactions t
                      WHERE t.donation_id = e.donation_id AND t.category = 'charge' AND t.seq <= %(fees_seq)s)
    GROUP BY e.donation_id, e.currency, e.ticket_id
    HAVING sum(e.amount_minor) > 0
) unknown
GROUP BY currency, ticket

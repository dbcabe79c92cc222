-- The totals of the tickets with the ids $1: for each a row per currency, with the donation paid last. No row for an
-- unknown ticket; one row without a currency for a ticket that has none. A currency in which no donation counts any more
-- has no row, so that a reply never depends on the order of events. `ledger_seq` is the journal's last entry at that moment.
SELECT k.id AS ticket, k.state = 'hidden' AS is_hidden, k.currency AS ticket_currency, t.currency, t.paid_minor, t.refunded_minor, t.disputed_minor,
       t.paid, t.refunded, t.disputed, t.partially_refunded, last.paid_at AS last_paid_at,
       last.amount_minor AS last_amount_minor, last.donor_last_name AS last_donor, last.currency AS last_currency,
       (SELECT coalesce(max(seq), 0) FROM ledger_entries) AS ledger_seq
FROM recording_tickets k
LEFT JOIN LATERAL (
    SELECT paid_at, amount_minor, donor_last_name, currency
    FROM stripe_attributions
    WHERE ticket_id = k.id
    ORDER BY ticket_id, coalesce(paid_at, '-infinity') DESC, created_at DESC, id
    LIMIT 1
) last ON last.paid_at IS NOT NULL
LEFT JOIN ticket_totals t ON t.ticket_id = k.id AND t.currency <> '' AND t.paid + t.refunded + t.disputed > 0
WHERE k.id = ANY ($1::text[])
ORDER BY k.id, t.currency

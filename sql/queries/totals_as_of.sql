-- A ticket's totals as the entries up to a seq add up to, one row per currency. No row for an unknown ticket; one row without
-- a currency for a ticket that had no figures.
SELECT k.currency AS ticket_currency, f.currency, f.paid_minor, f.refunded_minor, f.disputed_minor
FROM recording_tickets k
LEFT JOIN LATERAL (
    SELECT currency,
           coalesce(sum(amount_minor) FILTER (WHERE kind = 'payment'), 0)::bigint AS paid_minor,
           coalesce(sum(amount_minor) FILTER (WHERE kind = 'refund'), 0)::bigint AS refunded_minor,
           coalesce(sum(amount_minor) FILTER (WHERE kind = 'dispute'), 0)::bigint AS disputed_minor
    FROM ledger_entries
    WHERE ticket_id = k.id AND currency <> '' AND seq <= %(seq)s
    GROUP BY currency
) f ON (f.paid_minor, f.refunded_minor, f.disputed_minor) <> (0, 0, 0)
WHERE k.id = %(ticket)s
ORDER BY f.currency

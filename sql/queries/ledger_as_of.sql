-- A ticket's donations as they were known after an entry: what the entries up to it add up to, paid last first.
-- Donations that stood at nothing are left out.
SELECT donation_id, currency, paid_at, paid_minor, refunded_minor, disputed_minor
FROM (
    SELECT donation_id, currency,
           min(effective_at) FILTER (WHERE kind = 'payment') AS paid_at,
           coalesce(sum(amount_minor) FILTER (WHERE kind = 'payment'), 0)::bigint AS paid_minor,
           coalesce(sum(amount_minor) FILTER (WHERE kind = 'refund'), 0)::bigint AS refunded_minor,
           coalesce(sum(amount_minor) FILTER (WHERE kind = 'dispute'), 0)::bigint AS disputed_minor
    FROM ledger_entries
    WHERE ticket_id = %(ticket)s AND seq <= %(seq)s
    GROUP BY donation_id, currency
) donations
WHERE (paid_minor, refunded_minor, disputed_minor) <> (0, 0, 0)
ORDER BY paid_at DESC NULLS LAST, donation_id

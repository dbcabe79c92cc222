-- A ticket's donations as they were known after an entry: what the entries up to it add up to, paid last first.
-- Donations whose entries add up to nothing are left out. A donation was paid at the earliest time that still counts of an object
-- that brought money: what was booked out again or taken back later does not.
SELECT donation_id, currency, paid_at, paid_minor, refunded_minor, disputed_minor
FROM (
    SELECT donation_id, currency,
           min(effective_at) FILTER (WHERE kind = 'payment' AND minor <> 0 AND of_object > 0) AS paid_at,
           coalesce(sum(minor) FILTER (WHERE kind = 'payment'), 0)::bigint AS paid_minor,
           coalesce(sum(minor) FILTER (WHERE kind = 'refund'), 0)::bigint AS refunded_minor,
           coalesce(sum(minor) FILTER (WHERE kind = 'dispute'), 0)::bigint AS disputed_minor
    FROM (
        SELECT donation_id, currency, kind, effective_at, sum(amount_minor) AS minor,
               sum(sum(amount_minor)) OVER (PARTITION BY donation_id, currency, kind, object_id) AS of_object
        FROM ledger_entries
        WHERE ticket_id = %(ticket)s AND seq <= %(seq)s
        GROUP BY donation_id, currency, kind, object_id, effective_at
    ) movements
    GROUP BY donation_id, currency
) donations
WHERE (paid_minor, refunded_minor, disputed_minor) <> (0, 0, 0)
ORDER BY paid_at DESC NULLS LAST, donation_id

-- The sums of the paid donations of a period (`begin` and `end` in Unix seconds, null for no limit) per currency and
-- ticket ('' for none), the largest net sum of a currency first. With each row the journal's last seq; one row without a
-- currency if there is no donation.
SELECT (SELECT coalesce(max(seq), 0) FROM ledger_entries) AS ledger_seq, t.*
FROM (SELECT) one LEFT JOIN (
    SELECT coalesce(currency, '') AS currency, coalesce(ticket_id, '') AS ticket, count(*) AS donations,
           coalesce(sum(amount_minor), 0)::bigint AS paid_minor, sum(refunded_minor)::bigint AS refunded_minor,
           sum(disputed_minor)::bigint AS disputed_minor, max(paid_at) AS last_paid_at
    FROM stripe_attributions
    WHERE paid_at IS NOT NULL AND (%(begin)s::bigint IS NULL OR paid_at >= to_timestamp(%(begin)s))
      AND (%(end)s::bigint IS NULL OR paid_at < to_timestamp(%(end)s))
    GROUP BY 1, 2
) t ON true
ORDER BY t.currency, t.paid_minor - t.refunded_minor - t.disputed_minor DESC, t.ticket

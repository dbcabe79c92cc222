-- Donations in the order of their ids, those after an id only if one is given. With `unpaid` also those that were never
-- paid. The period counts by the time of the payment, for those never paid by the time of creation, and does not contain
-- its end. Times are Unix seconds, amounts minor units; null: not known, or none. What Stripe took of a donation is known
-- once the transaction of its payment is, if all of its transactions are in one currency; `payments` are the categories that
-- add to what was settled.
SELECT d.id, d.ticket_id, k.title AS ticket_title, d.status, d.amount_minor, d.refunded_minor, d.disputed_minor, d.currency,
       extract(epoch FROM d.created_at)::bigint AS created_at, extract(epoch FROM d.paid_at)::bigint AS paid_at,
       extract(epoch FROM d.refunded_at)::bigint AS refunded_at, d.donor_last_name AS donor, d.donor_country AS country,
       d.donor_email_hash AS email_hash, d.session_id, d.charge_id, d.subscription_id, d.account,
       f.fee_minor, f.currency AS fee_currency, f.settled_minor, f.exchange_rate
FROM stripe_attributions d
LEFT JOIN recording_tickets k ON k.id = d.ticket_id
LEFT JOIN LATERAL (
    SELECT sum(t.fee_minor)::bigint AS fee_minor, min(t.currency) AS currency,
           sum(t.amount_minor) FILTER (WHERE t.category = ANY (%(payments)s))::bigint AS settled_minor,
           CASE WHEN min(t.exchange_rate) FILTER (WHERE t.category = 'charge')
                     = max(t.exchange_rate) FILTER (WHERE t.category = 'charge')
                THEN (min(t.exchange_rate) FILTER (WHERE t.category = 'charge'))::text END AS exchange_rate
    FROM balance_transactions t
    WHERE t.donation_id = d.id
      AND NOT EXISTS (SELECT FROM balance_transactions n WHERE n.id = t.id AND n.seq > t.seq)
    HAVING bool_or(t.category = 'charge') AND min(t.currency) = max(t.currency)
) f ON true
WHERE (%(unpaid)s OR d.paid_at IS NOT NULL)
  AND (%(ticket)s::text IS NULL OR d.ticket_id = %(ticket)s)
  AND (%(status)s::text IS NULL OR d.status = %(status)s)
  AND (%(currency)s::text IS NULL OR d.currency = %(currency)s)
  AND (%(from_s)s::bigint IS NULL OR coalesce(d.paid_at, d.created_at) >= to_timestamp(%(from_s)s))
  AND (%(to_s)s::bigint IS NULL OR coalesce(d.paid_at, d.created_at) < to_timestamp(%(to_s)s))
  AND (%(after)s::text IS NULL OR d.id > %(after)s)
ORDER BY d.id

-- Donations in the order of their ids, those after an id only if one is given. With `unpaid` also those that were never
-- paid. The period counts by the time of the payment, for those never paid by the time of creation, and does not contain
-- its end. Times are Unix seconds, amounts minor units; null: not known, or none.
SELECT d.id, d.ticket_id, k.title AS ticket_title, d.status, d.amount_minor, d.refunded_minor, d.disputed_minor, d.currency,
       extract(epoch FROM d.created_at)::bigint AS created_at, extract(epoch FROM d.paid_at)::bigint AS paid_at,
       extract(epoch FROM d.refunded_at)::bigint AS refunded_at, d.donor_last_name AS donor, d.donor_country AS country,
       d.donor_email_hash AS email_hash, d.session_id, d.charge_id, d.subscription_id, d.account
FROM stripe_attributions d
LEFT JOIN recording_tickets k ON k.id = d.ticket_id
WHERE (%(unpaid)s OR d.paid_at IS NOT NULL)
  AND (%(ticket)s::text IS NULL OR d.ticket_id = %(ticket)s)
  AND (%(status)s::text IS NULL OR d.status = %(status)s)
  AND (%(currency)s::text IS NULL OR d.currency = %(currency)s)
  AND (%(from_s)s::bigint IS NULL OR coalesce(d.paid_at, d.created_at) >= to_timestamp(%(from_s)s))
  AND (%(to_s)s::bigint IS NULL OR coalesce(d.paid_at, d.created_at) < to_timestamp(%(to_s)s))
  AND (%(after)s::text IS NULL OR d.id > %(after)s)
ORDER BY d.id

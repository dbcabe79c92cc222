-- The first `limit` donors of each currency, by hash, and what their paid donations of a period (`begin` and `end` in Unix
-- seconds, null for no limit) and ticket (null for all) add up to: those who gave the largest net sums, or with
-- `by_donations` those with the most donations. With each row how many donors its currency has and how many of them have
-- several donations, and the journal's last seq; one row without a currency if there is no donor.
WITH donors AS (
    SELECT coalesce(currency, '') AS currency, donor_email_hash AS hash, count(*) AS donations,
           coalesce(sum(amount_minor), 0)::bigint AS paid_minor, sum(refunded_minor)::bigint AS refunded_minor,
           sum(disputed_minor)::bigint AS disputed_minor, min(paid_at) AS first_paid_at, max(paid_at) AS last_paid_at
    FROM stripe_attributions
    WHERE paid_at IS NOT NULL AND donor_email_hash IS NOT NULL
      AND (%(begin)s::bigint IS NULL OR paid_at >= to_timestamp(%(begin)s))
      AND (%(end)s::bigint IS NULL OR paid_at < to_timestamp(%(end)s))
      AND (%(ticket)s::text IS NULL OR coalesce(ticket_id, '') = %(ticket)s)
    GROUP BY 1, 2
), ranked AS (
    SELECT *, count(*) OVER every AS donors, count(*) FILTER (WHERE donations > 1) OVER every AS repeat_donors,
           row_number() OVER (
               PARTITION BY currency
               ORDER BY CASE WHEN %(by_donations)s THEN donations END DESC NULLS LAST,
                        paid_minor - refunded_minor - disputed_minor DESC, hash
           ) AS place
    FROM donors
    WINDOW every AS (PARTITION BY currency)
)
SELECT (SELECT coalesce(max(seq), 0) FROM ledger_entries) AS ledger_seq, r.currency, r.donors, r.repeat_donors, r.hash,
       r.donations, r.paid_minor, r.refunded_minor, r.disputed_minor, r.first_paid_at, r.last_paid_at
FROM (SELECT) one LEFT JOIN ranked r ON r.place <= %(limit)s
ORDER BY r.currency, r.place

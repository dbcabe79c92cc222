-- Of the paid donations of a period (`begin` and `end` in Unix seconds, null for no limit) and ticket (null for all): per
-- currency how many there are, how many of these have a known amount, the sums, the two middle amounts (the same one
-- where their number is odd) and the largest. With each row the donors by hash: all, those whose first donation ever
-- was within the period, those with several donations in it, the donations without a hash; and the journal's last seq.
-- One row without a currency if there is no donation.
WITH paid AS MATERIALIZED (
    SELECT coalesce(currency, '') AS currency, amount_minor, refunded_minor, disputed_minor, donor_email_hash, paid_at,
           (%(begin)s::bigint IS NULL OR paid_at >= to_timestamp(%(begin)s))
               AND (%(ticket)s::text IS NULL OR coalesce(ticket_id, '') = %(ticket)s) AS counts
    FROM stripe_attributions
    WHERE paid_at IS NOT NULL AND (%(end)s::bigint IS NULL OR paid_at < to_timestamp(%(end)s))
), currencies AS (
    SELECT currency, count(*) AS donations, count(amount_minor) AS known, coalesce(sum(amount_minor), 0)::bigint AS paid_minor,
           sum(refunded_minor)::bigint AS refunded_minor, sum(disputed_minor)::bigint AS disputed_minor,
           percentile_disc(0.5) WITHIN GROUP (ORDER BY amount_minor) AS lower_median_minor,
           percentile_disc(0.5) WITHIN GROUP (ORDER BY amount_minor DESC) AS upper_median_minor,
           max(amount_minor) AS largest_minor
    FROM paid WHERE counts GROUP BY currency
), donors AS (
    SELECT count(*) AS donors,
           count(*) FILTER (WHERE %(begin)s::bigint IS NULL OR first_at >= to_timestamp(%(begin)s)) AS new_donors,
           count(*) FILTER (WHERE donations > 1) AS repeat_donors
    FROM (
        SELECT min(paid_at) AS first_at, count(*) FILTER (WHERE counts) AS donations
        FROM paid WHERE donor_email_hash IS NOT NULL GROUP BY donor_email_hash
    ) each
    WHERE donations > 0
)
SELECT (SELECT coalesce(max(seq), 0) FROM ledger_entries) AS ledger_seq, d.donors, d.new_donors, d.repeat_donors,
       (SELECT count(*) FROM paid WHERE counts AND donor_email_hash IS NULL) AS without_hash,
       c.currency, c.donations, c.known, c.paid_minor, c.refunded_minor, c.disputed_minor, c.lower_median_minor,
       c.upper_median_minor, c.largest_minor
FROM donors d LEFT JOIN currencies c ON true
ORDER BY c.currency

-- The donations that were paid in a time, by donor (e-mail hash) and then by time, each with what the charity has of it and
-- its valid receipt; only those of some hashes, or of all donors if `hashes` is null.
SELECT a.donor_email_hash, a.id, a.paid_at, a.amount_minor - a.refunded_minor - a.disputed_minor AS kept_minor, a.currency,
       r.year, r.number
FROM stripe_attributions a
LEFT JOIN receipts r ON r.donation_id = a.id AND r.voided_at IS NULL
WHERE a.paid_at >= %(begins)s AND a.paid_at < %(ends)s AND a.donor_email_hash IS NOT NULL
  AND (a.donor_email_hash = ANY (%(hashes)s) OR %(hashes)s IS NULL)
  AND a.amount_minor - a.refunded_minor - a.disputed_minor > 0 AND a.currency IS NOT NULL
ORDER BY a.donor_email_hash, a.paid_at, a.id

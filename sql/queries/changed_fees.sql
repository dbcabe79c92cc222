-- What was recorded of fees after one `seq` and up to another, of transactions that were booked from `begin` to before `end`
-- (Unix seconds): the fee as it is known from then on, and as it was known after the first `seq` (null: not at all). What
-- changes neither the fee nor its donation is left out.
SELECT t.seq, t.recorded_at, t.created_at, t.donation_id AS donation, t.id AS transaction, t.category, t.currency,
       t.fee_minor - CASE WHEN t.category = ANY (%(fees)s) THEN t.amount_minor ELSE 0 END AS fee,
       f.fee_minor - CASE WHEN f.category = ANY (%(fees)s) THEN f.amount_minor ELSE 0 END AS former_fee
FROM balance_transactions t
LEFT JOIN LATERAL (
    SELECT * FROM balance_transactions WHERE id = t.id AND seq <= %(after)s ORDER BY seq DESC LIMIT 1
) f ON true
WHERE t.seq > %(after)s AND t.seq <= %(seq)s AND t.seq > %(after_seq)s
  AND t.created_at >= to_timestamp(%(begin)s) AND t.created_at < to_timestamp(%(end)s)
  AND NOT EXISTS (SELECT FROM balance_transactions n WHERE n.id = t.id AND n.seq > t.seq AND n.seq <= %(seq)s)
  AND (f.seq IS NULL OR (t.fee_minor, t.amount_minor, t.currency, t.category, t.donation_id)
                        IS DISTINCT FROM (f.fee_minor, f.amount_minor, f.currency, f.category, f.donation_id))
ORDER BY t.seq LIMIT %(limit)s

-- The transactions of a payout, by id, after one.
SELECT t.id, t.category, t.type, t.source_id AS source, t.donation_id AS donation, t.created_at, t.available_on, t.currency, t.amount_minor,
       t.fee_minor, t.net_minor, t.exchange_rate::text
FROM balance_transactions t
WHERE t.payout_id = %(payout)s AND t.id > %(after_id)s
  AND NOT EXISTS (SELECT FROM balance_transactions n WHERE n.id = t.id AND n.seq > t.seq)
ORDER BY t.id LIMIT %(limit)s

-- The balance transactions of some donations as they are known now, in the order of time.
SELECT id, extract(epoch FROM created_at)::bigint AS at, category, source_id AS source, currency, amount_minor, fee_minor,
       net_minor, exchange_rate::text, payout_id AS payout
FROM balance_transactions t
WHERE donation_id = ANY (%(ids)s)
  AND NOT EXISTS (SELECT FROM balance_transactions n WHERE n.id = t.id AND n.seq > t.seq)
ORDER BY created_at, id

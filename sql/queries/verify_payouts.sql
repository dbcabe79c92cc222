-- The payouts that are not the sum of their transactions, of those that Stripe states completely, with both amounts; and
-- the transactions whose net amount is not their amount less their fee. `since`: those that arrived, or were booked, since
-- this day; null: all.
SELECT p.id, p.currency, p.amount_minor AS is_minor,
       coalesce(sum(t.net_minor) FILTER (WHERE t.currency = p.currency), 0)::bigint AS ought_minor
FROM payouts p
LEFT JOIN balance_transactions t
       ON t.payout_id = p.id AND t.source_id IS DISTINCT FROM p.id
      AND NOT EXISTS (SELECT FROM balance_transactions n WHERE n.id = t.id AND n.seq > t.seq)
WHERE p.reconciliation = 'completed' AND NOT EXISTS (SELECT FROM payouts n WHERE n.id = p.id AND n.seq > p.seq)
  AND (%(since)s::date IS NULL OR p.arrival_date >= %(since)s::date)
GROUP BY p.seq
HAVING coalesce(sum(t.net_minor) FILTER (WHERE t.currency = p.currency), 0) <> p.amount_minor
UNION ALL
SELECT id, currency, net_minor, amount_minor - fee_minor
FROM balance_transactions t
WHERE net_minor <> amount_minor - fee_minor AND (%(since)s::date IS NULL OR created_at >= %(since)s::date)
  AND NOT EXISTS (SELECT FROM balance_transactions n WHERE n.id = t.id AND n.seq > t.seq)
ORDER BY 1

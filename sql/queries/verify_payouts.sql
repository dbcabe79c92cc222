-- The payouts that are not the sum of their transactions, of those that Stripe states completely, with both amounts; and
-- (without a payout) the transactions whose net amount is not their amount less their fee.
WITH newest AS (
    SELECT * FROM balance_transactions t
    WHERE NOT EXISTS (SELECT FROM balance_transactions n WHERE n.id = t.id AND n.seq > t.seq)
)
SELECT p.id, p.currency, p.amount_minor AS is_minor,
       coalesce(sum(t.net_minor) FILTER (WHERE t.currency = p.currency), 0)::bigint AS ought_minor
FROM payouts p
LEFT JOIN newest t ON t.payout_id = p.id AND t.source_id IS DISTINCT FROM p.id
WHERE p.reconciliation = 'completed' AND NOT EXISTS (SELECT FROM payouts n WHERE n.id = p.id AND n.seq > p.seq)
GROUP BY p.seq
HAVING coalesce(sum(t.net_minor) FILTER (WHERE t.currency = p.currency), 0) <> p.amount_minor
UNION ALL
SELECT id, currency, net_minor, amount_minor - fee_minor FROM newest WHERE net_minor <> amount_minor - fee_minor
ORDER BY 1

-- The payouts that arrived from one day to before another (all where these are null), or one payout, the one that arrived
-- last at the end; a row for each category of its transactions, the payout's own left out, and one row without a category
-- for a payout without transactions. `wrong` counts transactions whose net amount is not their amount less their fee.
SELECT p.id AS payout, p.arrival_date AS arrival, p.currency, p.amount_minor, p.status, p.method, p.reconciliation,
       t.category,
       coalesce(sum(t.amount_minor), 0)::bigint AS amount, coalesce(sum(t.fee_minor), 0)::bigint AS fee,
       coalesce(sum(t.net_minor), 0)::bigint AS net,
       count(*) FILTER (WHERE t.net_minor <> t.amount_minor - t.fee_minor OR t.currency <> p.currency) AS wrong
FROM payouts p
LEFT JOIN balance_transactions t
       ON t.payout_id = p.id AND t.source_id IS DISTINCT FROM p.id
      AND NOT EXISTS (SELECT FROM balance_transactions n WHERE n.id = t.id AND n.seq > t.seq)
WHERE (%(payout)s::text IS NULL OR p.id = %(payout)s)
  AND (%(first)s::date IS NULL OR p.arrival_date >= %(first)s::date)
  AND (%(after)s::date IS NULL OR p.arrival_date < %(after)s::date)
  AND NOT EXISTS (SELECT FROM payouts n WHERE n.id = p.id AND n.seq > p.seq)
GROUP BY p.seq, t.category
ORDER BY p.arrival_date, p.id, t.category

-- What Stripe's fees changed by, as entries of a journal: after one row of balance_transactions and up to another, in their
-- order, the fee of a transaction from then on less what it was before. Of a transaction that is a fee itself (`fees`), the
-- amount is what it cost. The period counts by the time of the transaction, and does not contain its end; the ticket is that
-- of the donation now. `settled_minor` and `exchange_rate` are null where nothing was converted.
SELECT t.seq, (extract(epoch FROM t.recorded_at) * 1000000)::bigint AS recorded_us,
       extract(epoch FROM t.created_at)::bigint AS effective_at, 'fee' AS kind, t.donation_id, NULL AS ticket_id,
       NULL AS ticket_title, c.change_minor AS amount_minor, t.currency, t.id AS object_id, t.category AS cause,
       CASE WHEN t.exchange_rate IS NOT NULL THEN t.amount_minor END AS settled_minor, t.exchange_rate::text
FROM balance_transactions t
CROSS JOIN LATERAL (
    SELECT coalesce(sum(CASE WHEN r.seq = t.seq THEN 1 ELSE -1 END
                        * (r.fee_minor - CASE WHEN r.category = ANY (%(fees)s) THEN r.amount_minor ELSE 0 END)), 0)::bigint
           AS change_minor
    FROM (SELECT * FROM balance_transactions WHERE id = t.id AND seq <= t.seq ORDER BY seq DESC LIMIT 2) r  -- and the former
    WHERE %(ticket)s::text IS NULL OR %(ticket)s = (
        SELECT d.ticket_id FROM stripe_objects o JOIN stripe_attributions d ON d.root = o.root
        WHERE o.id = r.donation_id
        ORDER BY d.id = r.donation_id DESC, d.id LIMIT 1)
) c
WHERE t.seq > %(after)s AND t.seq <= %(seq)s AND c.change_minor <> 0
  AND (%(currency)s::text IS NULL OR t.currency = %(currency)s)
  AND (%(from_s)s::bigint IS NULL OR t.created_at >= to_timestamp(%(from_s)s))
  AND (%(to_s)s::bigint IS NULL OR t.created_at < to_timestamp(%(to_s)s))
ORDER BY t.seq

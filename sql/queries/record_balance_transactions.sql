-- Adds what is new of some balance transactions, one row for each. What a row does not give (null) stays as it is known.
-- The caller has the lock of lock_balance.sql.
WITH given AS (
    SELECT * FROM json_to_recordset(%(rows)s::json) AS g(
        id text, created bigint, available_on bigint, type text, category text, source text, payment text, donation text,
        payout text, currency text, amount bigint, fee bigint, net bigint, exchange_rate numeric)
), known AS (
    SELECT k.* FROM given g CROSS JOIN LATERAL (
        SELECT * FROM balance_transactions WHERE id = g.id ORDER BY seq DESC LIMIT 1
    ) k
), news AS (
    SELECT g.id, coalesce(to_timestamp(g.created), k.created_at) AS created_at,
           coalesce(to_timestamp(g.available_on), k.available_on) AS available_on, coalesce(g.type, k.type) AS type,
           coalesce(g.category, k.category) AS category, coalesce(g.source, k.source_id) AS source_id,
           coalesce(g.payment, k.payment_id) AS payment_id, coalesce(g.donation, k.donation_id) AS donation_id,
           coalesce(g.payout, k.payout_id) AS payout_id, coalesce(g.currency, k.currency) AS currency,
           coalesce(g.amount, k.amount_minor) AS amount_minor, coalesce(g.fee, k.fee_minor) AS fee_minor,
           coalesce(g.net, k.net_minor) AS net_minor, coalesce(g.exchange_rate, k.exchange_rate) AS exchange_rate
    FROM given g LEFT JOIN known k USING (id)
    EXCEPT
    SELECT id, created_at, available_on, type, category, source_id, payment_id, donation_id, payout_id, currency,
           amount_minor, fee_minor, net_minor, exchange_rate
    FROM known
), last AS MATERIALIZED (
    SELECT coalesce(max(seq), 0) AS seq, greatest(max(recorded_at), clock_timestamp()) AS recorded_at
    FROM (SELECT seq, recorded_at FROM balance_transactions ORDER BY seq DESC LIMIT 1) newest
)
INSERT INTO balance_transactions (seq, recorded_at, id, created_at, available_on, type, category, source_id, payment_id,
                                  donation_id, payout_id, currency, amount_minor, fee_minor, net_minor, exchange_rate)
SELECT last.seq + row_number() OVER (ORDER BY n.created_at, n.id), last.recorded_at, n.*
FROM news n CROSS JOIN last
RETURNING id

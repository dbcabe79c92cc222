-- The donations that were refunded at most so many seconds after they were paid, with refunds recorded since that time:
-- each once, by its earliest refund, with the number of payments for its ticket since then. The time is that of recording,
-- as in payment_bursts.sql.
WITH recent AS MATERIALIZED (
    SELECT donation_id, ticket_id, kind, effective_at FROM ledger_entries
    WHERE recorded_at >= %(since)s AND kind IN ('payment', 'refund') AND amount_minor > 0
)
SELECT a.id AS donation, a.ticket_id AS ticket, a.donor_email_hash AS hash,
       extract(epoch FROM a.paid_at)::bigint AS paid_at, extract(epoch FROM min(r.effective_at))::bigint AS refunded_at,
       (SELECT count(DISTINCT p.donation_id) FROM recent p WHERE p.kind = 'payment' AND p.ticket_id = a.ticket_id)
           AS ticket_payments
FROM recent r JOIN stripe_attributions a ON a.id = r.donation_id
WHERE r.kind = 'refund' AND r.effective_at <= a.paid_at + make_interval(secs => %(within_s)s)
GROUP BY a.id

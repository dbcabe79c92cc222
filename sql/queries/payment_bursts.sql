-- E-mail hashes with at least so many payments since that time: when each was paid, in order, for which tickets. The time
-- is that of recording, by which entries are found without reading the whole journal.
SELECT a.donor_email_hash AS hash, array_agg(extract(epoch FROM a.paid_at)::bigint ORDER BY a.paid_at) AS paid_at,
       array_agg(DISTINCT coalesce(a.ticket_id, '')) AS tickets
FROM (SELECT DISTINCT donation_id FROM ledger_entries
      WHERE recorded_at >= %(since)s AND kind = 'payment' AND amount_minor > 0) AS e
JOIN stripe_attributions a ON a.id = e.donation_id
WHERE a.donor_email_hash IS NOT NULL AND a.paid_at IS NOT NULL
GROUP BY a.donor_email_hash HAVING count(*) >= %(payments)s

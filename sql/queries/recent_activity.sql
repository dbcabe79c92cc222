-- The journal's last entry (nulls before the first one), and how many events were recorded in the last hour: at most `limit`
-- are counted, so that the cost is the same at any rate.
SELECT e.seq, e.recorded_at,
       (SELECT count(*) FROM (
            SELECT FROM stripe_events WHERE processed_at > now() - interval '1 hour' LIMIT %(limit)s) counted) AS events
FROM (SELECT) one LEFT JOIN LATERAL (SELECT seq, recorded_at FROM ledger_entries ORDER BY seq DESC LIMIT 1) e ON true

-- A ticket's totals as they were known at an earlier moment, one row per currency: by the entries up to a seq, or up to
-- the last one recorded at a time (found by halves, for recorded_at rises with seq). Either is null. With each row the
-- seq and its time, null before the first entry. No row for an unknown ticket; one row without a currency for a ticket
-- that had no figures.
WITH RECURSIVE search(low, high) AS (
    SELECT 0::bigint, coalesce(max(seq), 0) FROM ledger_entries
    UNION ALL
    SELECT CASE WHEN e.recorded_at <= %(time)s THEN s.middle ELSE s.low END,
           CASE WHEN e.recorded_at <= %(time)s THEN s.high ELSE s.middle - 1 END
    FROM (SELECT low, high, (low + high + 1) / 2 AS middle FROM search) s JOIN ledger_entries e ON e.seq = s.middle
    WHERE s.low < s.high AND %(time)s::timestamptz IS NOT NULL
), moment AS (
    SELECT CASE WHEN %(time)s::timestamptz IS NULL THEN least(%(seq)s::bigint, max(high)) ELSE max(low) END AS seq
    FROM search
)
SELECT k.currency AS ticket_currency, m.seq,
       (SELECT e.recorded_at FROM ledger_entries e WHERE e.seq = m.seq) AS recorded_at,
       f.currency, f.paid_minor, f.refunded_minor, f.disputed_minor
FROM recording_tickets k
CROSS JOIN moment m
LEFT JOIN LATERAL (
    SELECT currency,
           coalesce(sum(amount_minor) FILTER (WHERE kind = 'payment'), 0)::bigint AS paid_minor,
           coalesce(sum(amount_minor) FILTER (WHERE kind = 'refund'), 0)::bigint AS refunded_minor,
           coalesce(sum(amount_minor) FILTER (WHERE kind = 'dispute'), 0)::bigint AS disputed_minor
    FROM ledger_entries
    WHERE ticket_id = k.id AND currency <> '' AND seq <= m.seq
    GROUP BY currency
) f ON (f.paid_minor, f.refunded_minor, f.disputed_minor) <> (0, 0, 0)
WHERE k.id = %(ticket)s
ORDER BY f.currency

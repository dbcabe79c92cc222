-- The daily sums of a ticket ('*': of all together) since a day, per `unit` (day, week, month), currency and kind; with
-- each row up to which entry they count, and when that was. One row without a currency if there are none; no row before
-- the first pass.
SELECT s.seq, s.added_at, d.begin, d.currency, d.kind, d.amount_minor
FROM daily_sums_state s LEFT JOIN LATERAL (
    SELECT date_trunc(%(unit)s, day::timestamp)::date AS begin, currency, kind, sum(amount_minor)::bigint AS amount_minor
    FROM daily_sums WHERE time_zone = s.time_zone AND ticket_id = %(ticket)s AND day >= %(since)s
    GROUP BY 1, 2, 3
) d ON true
WHERE s.time_zone = %(time_zone)s
ORDER BY d.currency, d.begin

-- One page of a ticket's ledger, in the ledger's order, after the donation that the cursor names (or from the start), as
-- the JSON of the reply: the donations, how many, and the place where the next page begins (null on the last one). No
-- row for an unknown ticket. Amounts times their currency's unit are exact, with as many decimals as the unit has.
WITH page AS (
    SELECT id, amount_minor, currency, status, donor_last_name, donor_country, created_at, paid_at, refunded_at,
           session_id, refunded_minor, disputed_minor,
           to_char(coalesce(extract(epoch FROM paid_at), -1), 'FM99999999999990') AS paid_key,
           to_char(extract(epoch FROM created_at), 'FM99999999999990') AS created_key
    FROM stripe_attributions
    WHERE ticket_id = %(ticket)s
      AND (%(status)s::text IS NULL OR status = %(status)s)
      AND (%(currency)s::text IS NULL OR currency = %(currency)s)
      AND (%(after_id)s::text IS NULL
           OR (coalesce(paid_at, '-infinity') <= coalesce(to_timestamp(%(after_paid)s), '-infinity')
               AND (coalesce(paid_at, '-infinity') < coalesce(to_timestamp(%(after_paid)s), '-infinity')
                    OR created_at < to_timestamp(%(after_created)s)
                    OR (created_at = to_timestamp(%(after_created)s) AND id > %(after_id)s))))
    ORDER BY ticket_id, coalesce(paid_at, '-infinity') DESC, created_at DESC, id
    LIMIT %(limit)s + 1
), shown AS (
    SELECT page.*, row_number() OVER () AS n, coalesce(page.currency, k.currency, %(default_currency)s) AS unit_name
    FROM page, recording_tickets k
    WHERE k.id = %(ticket)s
), priced AS (
    SELECT shown.*,
           CASE WHEN unit_name = ANY (%(zero_decimal)s) THEN 1
                WHEN unit_name = ANY (%(three_decimal)s) THEN 0.001
                ELSE 0.01 END AS unit
    FROM shown
), donations AS (
    SELECT n, row_to_json(d) AS donation
    FROM priced, LATERAL (
        SELECT id,
               coalesce(amount_minor, 0) * unit AS amount,
               unit_name AS currency,
               status,
               coalesce(donor_last_name, 'Anonymous') AS donor,
               donor_country AS country,
               to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS "createdAt",
               to_char(paid_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS "paidAt",
               to_char(refunded_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS "refundedAt",
               session_id AS "sessionId",
               refunded_minor * unit AS "refundedAmount",
               disputed_minor * unit AS "disputedAmount"
    ) d
)
SELECT (SELECT coalesce(json_agg(donation ORDER BY n), '[]')::text FROM donations WHERE n <= %(limit)s)
           AS donations,
       (SELECT count(*) FROM donations WHERE n <= %(limit)s) AS count,
       (SELECT paid_key || ':' || created_key || ':' || id FROM shown
        WHERE n = %(limit)s AND EXISTS (SELECT FROM shown WHERE n > %(limit)s)) AS next,
       (SELECT coalesce(max(seq), 0) FROM ledger_entries) AS ledger_seq
FROM recording_tickets
WHERE id = %(ticket)s

-- Pages of tickets' ledgers, in the ledger's order, each after the donation that its cursor names (or from the start),
-- with one donation more than `rows` where there is a next page. A ticket without donations there has one row without an
-- id; an unknown ticket has none. `fingerprint` is computed from everything that is shown of a page, so a page that has the
-- same fingerprint has not changed, by any writer; of one whose fingerprint is among `known` there is only the
-- first row. Times are in Unix seconds. `ledger_seq` is the journal's last entry at that moment.
--
-- $1 the pages {n, ticket, rows, status, currency, after_paid, after_created, after_id, known}: an array of JSON objects.
SELECT asked.n, k.state = 'hidden' AS is_hidden, k.currency AS ticket_currency, page.id, page.amount_minor, page.currency, page.status,
       page.donor_last_name, page.donor_country, date_part('epoch', page.created_at)::bigint AS created_at,
       date_part('epoch', page.paid_at)::bigint AS paid_at, date_part('epoch', page.refunded_at)::bigint AS refunded_at,
       page.session_id, page.refunded_minor, page.disputed_minor, coalesce(page.fingerprint, 0) # k.hash AS fingerprint,
       (SELECT coalesce(max(seq), 0) FROM ledger_entries) AS ledger_seq
FROM json_to_recordset($1) AS asked(n int, ticket text, rows int, status text, currency text, after_paid bigint,
                                    after_created bigint, after_id text, known bigint[])
CROSS JOIN LATERAL (  -- with its limit this is a look-up by key for each page, not a join with all tickets
    SELECT state, currency, hashtextextended(coalesce(currency, ''), 0) AS hash
    FROM recording_tickets WHERE id = asked.ticket LIMIT 1
) k
LEFT JOIN LATERAL (
    SELECT shown.*, row_number() OVER () AS place, bit_xor(hash_record_extended(shown, 0)) OVER () AS fingerprint
    FROM (
        SELECT a.id, a.amount_minor, a.currency, a.status, a.donor_last_name, a.donor_country, a.created_at, a.paid_at,
               a.refunded_at, a.session_id, a.refunded_minor, a.disputed_minor
        FROM stripe_attributions a
        WHERE a.ticket_id = asked.ticket
          AND (asked.status IS NULL OR a.status = asked.status)
          AND (asked.currency IS NULL OR a.currency = asked.currency)
          -- The place in the index where reading begins; then the donations there that come before the cursor's.
          AND coalesce(a.paid_at, '-infinity')
              <= CASE WHEN asked.after_id IS NULL THEN 'infinity' ELSE coalesce(to_timestamp(asked.after_paid), '-infinity') END
          AND (asked.after_id IS NULL
               OR coalesce(a.paid_at, '-infinity') < coalesce(to_timestamp(asked.after_paid), '-infinity')
               OR a.created_at < to_timestamp(asked.after_created)
               OR (a.created_at = to_timestamp(asked.after_created) AND a.id > asked.after_id))
        ORDER BY a.ticket_id, coalesce(a.paid_at, '-infinity') DESC, a.created_at DESC, a.id
        LIMIT asked.rows + 1
    ) shown
) page ON page.place = 1 OR (page.fingerprint # k.hash) <> ALL (asked.known)
ORDER BY asked.n, page.place

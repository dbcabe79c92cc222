-- What the public pages of the tickets with the ids $1 show, each from one snapshot; no row for an unknown ticket. `totals`:
-- the figures of each currency in which a donation counts. `named`: the newest $2 donations whose donors' names may be
-- shown, with what is left of their amount; each is paid and not wholly refunded. `changed_seq`: the last entry of the
-- ticket's own. `ledger_seq` is the journal's last entry at that moment. Times are in Unix seconds.
SELECT k.id, k.title, k.currency, k.goal_minor, k.state, entry.seq AS changed_seq,
       extract(epoch FROM entry.recorded_at)::bigint AS changed_at, extract(epoch FROM last.paid_at)::bigint AS last_paid_at,
       coalesce(totals.by_currency, '[]')::text AS totals, coalesce(named.donations, '[]')::text AS named,
       (SELECT coalesce(max(seq), 0) FROM ledger_entries) AS ledger_seq
FROM recording_tickets k
LEFT JOIN LATERAL (
    SELECT seq, recorded_at FROM ledger_entries WHERE ticket_id = k.id ORDER BY ticket_id, seq DESC LIMIT 1
) entry ON true
LEFT JOIN LATERAL (
    SELECT paid_at
    FROM stripe_attributions
    WHERE ticket_id = k.id
    ORDER BY ticket_id, coalesce(paid_at, '-infinity') DESC, created_at DESC, id
    LIMIT 1
) last ON true
LEFT JOIN LATERAL (
    SELECT json_agg(json_build_array(currency, paid_minor - refunded_minor - disputed_minor, paid) ORDER BY currency)
               AS by_currency
    FROM ticket_totals
    WHERE ticket_id = k.id AND currency <> '' AND paid + refunded + disputed > 0
) totals ON true
LEFT JOIN LATERAL (
    SELECT json_agg(json_build_array(donor_last_name, currency, net_minor, at) ORDER BY at DESC, id) AS donations
    FROM (
        SELECT id, donor_last_name, currency, amount_minor - refunded_minor - disputed_minor AS net_minor,
               extract(epoch FROM paid_at)::bigint AS at
        FROM stripe_attributions
        WHERE ticket_id = k.id AND consent AND paid_at IS NOT NULL AND status = 'PAID' AND donor_last_name IS NOT NULL
              AND currency IS NOT NULL AND amount_minor > refunded_minor + disputed_minor
        ORDER BY ticket_id, paid_at DESC, id
        LIMIT $2
    ) newest
) named ON true
WHERE k.id = ANY ($1::text[])

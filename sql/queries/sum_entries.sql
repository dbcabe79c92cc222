-- What the entries of one part of the journal add up to whose money moved from `begin` to before `end` (Unix seconds),
-- per currency, kind, ticket (with `by_ticket`; else null) and period: periods are numbered from 0, and `begins` has the
-- instants at which they begin, in rising order. `ticket` null: of all tickets.
SELECT width_bucket(extract(epoch FROM effective_at)::bigint, %(begins)s::bigint[]) - 1 AS period, currency,
       CASE WHEN %(by_ticket)s THEN ticket_id END AS ticket, kind, sum(amount_minor)::bigint AS amount_minor
FROM ledger_entries
WHERE seq > %(after)s AND seq <= %(seq)s
  AND effective_at >= to_timestamp(%(begin)s) AND effective_at < to_timestamp(%(end)s)
  AND (%(ticket)s::text IS NULL OR ticket_id = %(ticket)s)
GROUP BY 1, 2, 3, 4

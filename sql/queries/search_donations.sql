-- One page of donations, newest first: by the time when each was paid, or created while it is not paid, then by id; of
-- the times from `low` to before `high`, after the place (after_at, after_id), which is infinity and '' for the first
-- page. `way` names the index that finds them: all, ticket, hash, subscription, ids.
--
-- What no index finds (status and currency; a ticket beside another way) is looked for in the next `scan` donations only,
-- so that a page costs the same however rare its donations are: it may have fewer donations than `limit`, or none, and be
-- followed by another. With each row (one without a donation if there is none): how many were looked at, and the place
-- of the last of them.
WITH ways AS (
    (SELECT id, coalesce(paid_at, created_at) AS at, ticket_id, status, currency FROM stripe_attributions
     WHERE %(way)s = 'all'
       AND coalesce(paid_at, created_at) >= %(low)s AND coalesce(paid_at, created_at) < %(high)s
       AND coalesce(paid_at, created_at) <= %(after_at)s
       AND (coalesce(paid_at, created_at) < %(after_at)s OR id > %(after_id)s)
     ORDER BY coalesce(paid_at, created_at) DESC, id LIMIT %(scan)s)
    UNION ALL
    (SELECT id, coalesce(paid_at, '-infinity'), ticket_id, status, currency FROM stripe_attributions
     WHERE %(way)s = 'ticket' AND ticket_id = %(ticket)s AND coalesce(paid_at, '-infinity') > '-infinity'
       AND coalesce(paid_at, '-infinity') >= %(low)s AND coalesce(paid_at, '-infinity') < %(high)s
       AND coalesce(paid_at, '-infinity') <= %(after_at)s
       AND (coalesce(paid_at, '-infinity') < %(after_at)s OR id > %(after_id)s)
     ORDER BY coalesce(paid_at, '-infinity') DESC, id LIMIT %(scan)s)
    UNION ALL
    (SELECT id, created_at, ticket_id, status, currency FROM stripe_attributions
     WHERE %(way)s = 'ticket' AND ticket_id = %(ticket)s AND coalesce(paid_at, '-infinity') = '-infinity'
       AND created_at >= %(low)s AND created_at < %(high)s AND created_at <= %(after_at)s
       AND (created_at < %(after_at)s OR id > %(after_id)s)
     ORDER BY created_at DESC, id LIMIT %(scan)s)
    UNION ALL
    (SELECT id, coalesce(paid_at, created_at), ticket_id, status, currency FROM stripe_attributions
     WHERE (%(way)s = 'hash' AND donor_email_hash = %(hash)s
            OR %(way)s = 'subscription' AND subscription_id = %(subscription)s
            OR %(way)s = 'ids' AND id = ANY (%(ids)s::text[]))
       AND coalesce(paid_at, created_at) >= %(low)s AND coalesce(paid_at, created_at) < %(high)s
       AND coalesce(paid_at, created_at) <= %(after_at)s
       AND (coalesce(paid_at, created_at) < %(after_at)s OR id > %(after_id)s)
     ORDER BY coalesce(paid_at, created_at) DESC, id LIMIT %(scan)s)
), looked_at AS MATERIALIZED (
    SELECT * FROM ways ORDER BY at DESC, id LIMIT %(scan)s
), last AS (
    SELECT (SELECT count(*) FROM looked_at) AS looked_at, extract(epoch FROM at)::bigint AS last_at, id AS last_id
    FROM (SELECT) one LEFT JOIN LATERAL (SELECT at, id FROM looked_at ORDER BY at, id DESC LIMIT 1) l ON true
)
SELECT last.looked_at, last.last_at, last.last_id, extract(epoch FROM d.at)::bigint AS at, d.id, d.ticket_id AS ticket,
       d.status, d.amount_minor, d.currency, d.refunded_minor, d.disputed_minor, d.created_at, d.paid_at, d.refunded_at,
       d.donor_last_name AS last_name, d.donor_country AS country, d.donor_email_hash AS email_hash, d.session_id,
       d.charge_id, d.account, d.subscription_id AS subscription, d.consent
FROM last LEFT JOIN LATERAL (
    SELECT page.at, a.*
    FROM (
        SELECT id, at FROM looked_at
        WHERE (%(ticket)s::text IS NULL OR ticket_id = %(ticket)s)
          AND (%(status)s::text IS NULL OR status = %(status)s)
          AND (%(currency)s::text IS NULL OR currency = %(currency)s)
        ORDER BY at DESC, id LIMIT %(limit)s
    ) page JOIN stripe_attributions a ON a.id = page.id
) d ON true
ORDER BY d.at DESC, d.id

-- One page of a ticket's ledger, in the ledger's order, after the donation that the cursor names (or from the start).
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
LIMIT %(limit)s

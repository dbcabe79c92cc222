-- What a decision about an early fraud warning needs to know of these donations.
SELECT id, ticket_id AS ticket, status, amount_minor, currency, refunded_minor
FROM stripe_attributions WHERE id = ANY (%(ids)s)

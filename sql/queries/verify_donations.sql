-- Donations as they are stored, in the order of the fields of `Donation`, with the row that keeps their facts, the facts,
-- and the version of the rules that derived them: those that keep facts themselves, or (few) those whose facts another
-- row keeps.
SELECT id, ticket_id AS ticket, status, amount_minor AS amount, currency, refunded_minor AS refunded,
       disputed_minor AS disputed, extract(epoch FROM created_at)::bigint AS created_at,
       extract(epoch FROM paid_at)::bigint AS paid_at, extract(epoch FROM refunded_at)::bigint AS refunded_at,
       donor_last_name AS last_name, donor_country AS country, donor_email_hash AS email_hash, session_id, charge_id,
       account, subscription_id AS subscription, consent, root, facts,
       CASE WHEN derived_version = version THEN rules_version ELSE 0 END AS rules
FROM stripe_attributions
WHERE (facts IS NOT NULL) = %(with_facts)s

-- Donations as they are stored, in the order of fold.Donation's fields, with the version of the rules that derived them
-- and their facts: those that hold facts themselves, or (few) those whose facts another row holds.
SELECT id, ticket_id, status, amount_minor, currency, refunded_minor, disputed_minor,
       extract(epoch FROM created_at)::bigint, extract(epoch FROM paid_at)::bigint,
       extract(epoch FROM refunded_at)::bigint, donor_last_name, donor_country, donor_email_hash,
       session_id, charge_id, account, subscription_id, root, facts,
       CASE WHEN derived_version = version THEN rules_version ELSE 0 END
FROM stripe_attributions
WHERE (facts IS NOT NULL) = %(with_facts)s

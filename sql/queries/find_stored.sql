-- The rows that contain the facts of some Stripe objects: rows of donations, of invoices without a payment, of the
-- subscriptions that these donations belong to or that are asked for, and (version 0) of those objects that are failed
-- charges, which are kept apart from their donation's row. `rules` is the version of the rules that derived the row; null
-- where nothing is derived. `entries_digest` is null where it is not known. $1 ids; $2 ids of subscriptions
WITH roots AS MATERIALIZED (
    SELECT DISTINCT root FROM stripe_objects WHERE id = ANY ($1::text[])
), donations AS MATERIALIZED (
    SELECT id, version, facts::text, entries_digest, subscription_id,
           CASE WHEN derived_version = version THEN rules_version ELSE 0 END AS rules
    FROM stripe_attributions
    WHERE id = ANY (ARRAY(TABLE roots))
)
SELECT id AS root, version, facts, rules, entries_digest
FROM donations
UNION ALL
SELECT id, version, facts::text, NULL, NULL
FROM stripe_billing
WHERE id = ANY ($2::text[] || ARRAY(TABLE roots)
                || ARRAY(SELECT subscription_id FROM donations WHERE subscription_id IS NOT NULL))
UNION ALL
SELECT id, 0, facts::text, NULL, NULL
FROM stripe_failed_charges
WHERE id = ANY ($1::text[])

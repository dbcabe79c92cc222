-- The rows that contain the facts of some Stripe objects: rows of donations, of invoices without a payment, and (version
-- 0) of those objects that are failed charges, which are kept apart from their donation's row. `rules` is the version of
-- the rules that derived the row; null where nothing is derived. `entries_digest` is null where it is not known. $1 ids
WITH roots AS MATERIALIZED (
    SELECT DISTINCT root FROM stripe_objects WHERE id = ANY ($1::text[])
)
SELECT id AS root, version, facts::text, CASE WHEN derived_version = version THEN rules_version ELSE 0 END AS rules,
       entries_digest
FROM stripe_attributions
WHERE id = ANY (ARRAY(TABLE roots))
UNION ALL
SELECT id, version, facts::text, NULL, NULL
FROM stripe_billing
WHERE id = ANY (ARRAY(TABLE roots))
UNION ALL
SELECT id, 0, facts::text, NULL, NULL
FROM stripe_failed_charges
WHERE id = ANY ($1::text[])

-- What the ledger holds of some Stripe objects: rows with facts (of donations, and of invoices without a payment), and
-- those of these objects that are failed charges, kept apart from their donation's row (version 0). With each the
-- version of the rules that derived it; null where nothing is derived. $1 ids
WITH roots AS (
    SELECT DISTINCT root AS id FROM stripe_objects WHERE id = ANY ($1::text[])
)
SELECT id, version, facts::text, CASE WHEN derived_version = version THEN rules_version ELSE 0 END
FROM stripe_attributions
WHERE id IN (SELECT id FROM roots)
UNION ALL
SELECT id, version, facts::text, NULL
FROM stripe_billing
WHERE id IN (SELECT id FROM roots)
UNION ALL
SELECT id, 0, facts::text, NULL
FROM stripe_failed_charges
WHERE id = ANY ($1::text[])

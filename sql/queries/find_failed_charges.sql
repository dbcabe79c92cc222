-- The failed charges of some PaymentIntents that are kept apart, as find_stored.sql has them. $1 ids
SELECT id AS root, 0 AS version, facts::text AS facts, NULL AS rules, NULL AS entries_digest
FROM stripe_failed_charges
WHERE payment_intent = ANY ($1::text[])

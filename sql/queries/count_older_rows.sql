-- The number of rows with facts that older rules derived.
SELECT count(*)
FROM stripe_attributions
WHERE facts IS NOT NULL AND (rules_version < %(rules)s OR derived_version <> version)

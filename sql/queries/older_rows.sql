-- Some of the rows that older rules derived, in the order of their ids, after one of them.
SELECT id
FROM stripe_attributions
WHERE id > %(after)s AND facts IS NOT NULL AND (rules_version < %(rules)s OR derived_version <> version)
ORDER BY id
LIMIT %(limit)s

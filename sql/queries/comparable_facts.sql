-- What Stripe and operators stated, by the rows that contain it.
SELECT 'facts' AS kind, row::text
FROM (
    SELECT to_jsonb(ARRAY[a.id]) || facts::jsonb AS row FROM stripe_attributions a WHERE facts IS NOT NULL
    UNION ALL
    SELECT to_jsonb(ARRAY[b.id]) || facts::jsonb FROM stripe_billing b
    UNION ALL
    SELECT to_jsonb(ARRAY[c.id]) || facts::jsonb FROM stripe_failed_charges c
) compared
ORDER BY row::text COLLATE "C"

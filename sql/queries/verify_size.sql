-- About how many donations there are (PostgreSQL's own estimate), and exactly how many Stripe objects.
SELECT (SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = 'stripe_attributions'::regclass),
       (SELECT count(*) FROM stripe_objects)

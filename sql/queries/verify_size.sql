-- About how many donations there are (PostgreSQL's own estimate), and exactly how many Stripe objects that belong to one.
SELECT (SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = 'stripe_attributions'::regclass) AS donations,
       (SELECT count(*) FROM stripe_objects o WHERE NOT EXISTS (SELECT FROM stripe_billing b WHERE b.id = o.root))
           AS objects

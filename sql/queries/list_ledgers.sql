-- The ledgers of this database, whatever the search path is: their schemas, owners, and PostgreSQL's own estimate of the
-- number of donations.
SELECT n.nspname::text AS schema, pg_get_userbyid(m.relowner)::text AS owner, greatest(d.reltuples, 0)::bigint AS donations
FROM pg_namespace n
JOIN pg_class m ON m.relnamespace = n.oid AND m.relname = 'schema_migrations'
JOIN pg_class d ON d.relnamespace = n.oid AND d.relname = 'stripe_attributions'
ORDER BY n.nspname

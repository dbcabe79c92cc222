-- The role the API and the sidecar log in as: it reads and writes rows and owns nothing.
-- Run in the ledger's database, by the role that owns it, before the first migration; running it again changes nothing.
-- The password is no part of this file: set it with \password donationd, or ALTER ROLE.
--
-- What a database can't take from a role by itself, pg_hba.conf does; other databases of the same server let everybody in:
--   host  <the ledger's database>  donationd  <the API's address>  scram-sha-256
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'donationd') THEN
        CREATE ROLE donationd LOGIN;
    END IF;
    -- Everybody may connect, and make temporary tables, unless it is taken away.
    EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO donationd', current_database());
    -- Everybody may store large objects, too. Those functions are the superuser's to close.
    IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        REVOKE EXECUTE ON FUNCTION lo_creat(integer), lo_create(oid), lo_from_bytea(oid, bytea) FROM PUBLIC;
    END IF;
END
$$;

-- Before PostgreSQL 15 everybody could create tables in public.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO donationd;

-- What exists already, and (default privileges) what later migrations of this same owner create.
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO donationd;
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO donationd;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO donationd;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO donationd;

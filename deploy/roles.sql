-- The role the API and the sidecar log in as: it reads and writes rows and owns nothing.
-- Run by the role that owns the schema, before the first migration; running it again changes nothing.
-- The password is no part of this file: set it with \password donationd, or ALTER ROLE.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'donationd') THEN
        CREATE ROLE donationd LOGIN;
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

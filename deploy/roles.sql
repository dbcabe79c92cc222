-- The role the API and the sidecar log in as: it reads and writes rows and owns nothing.
-- Run in the ledger's database, by the role that owns it, before the first migration; running it again changes nothing.
-- Where that role is no superuser, the commands that only a superuser may run are printed.
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

-- PostgreSQL's log. A statement of ours has donors' last names, countries and hashes in it, and PostgreSQL logs the text
-- of each statement that fails. These settings keep statements, rows and values out of the log, for the sessions of both
-- roles in this database only. Whoever may not make them is shown what an administrator has to run. Other extensions that
-- log statements, such as pgaudit, have settings of their own.
DO $$
DECLARE
    role_name name;
    setting text[];
    command text;
    commands text := '';
BEGIN
    FOREACH role_name IN ARRAY ARRAY['donationd', current_user] LOOP
        FOREACH setting SLICE 1 IN ARRAY ARRAY[
            ['log_min_error_statement', 'panic'],
            ['log_error_verbosity', 'terse'],
            ['log_statement', 'none'],
            ['log_min_duration_statement', '-1'],
            ['log_min_duration_sample', '-1'],
            ['log_transaction_sample_rate', '0'],
            ['log_parameter_max_length', '0'],
            ['log_parameter_max_length_on_error', '0'],
            ['debug_print_parse', 'off'],
            ['debug_print_rewritten', 'off'],
            ['debug_print_plan', 'off'],
            ['auto_explain.log_min_duration', '-1']
        ] LOOP
            CONTINUE WHEN EXISTS (  -- an administrator has run it
                SELECT FROM pg_db_role_setting s
                WHERE s.setrole = (SELECT oid FROM pg_roles WHERE rolname = role_name)
                AND s.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
                AND setting[1] || '=' || setting[2] = ANY(s.setconfig)
            );
            command := format('ALTER ROLE %I IN DATABASE %I SET %s = %L',
                              role_name, current_database(), setting[1], setting[2]);
            BEGIN
                EXECUTE command;
            EXCEPTION WHEN insufficient_privilege THEN
                commands := commands || E'\n' || command || ';';
            END;
        END LOOP;
    END LOOP;
    IF commands <> '' THEN
        RAISE WARNING E'PostgreSQL''s log can contain donors'' data until a superuser runs:%', commands;
    END IF;
END
$$;

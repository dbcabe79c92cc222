-- The role the API and the sidecar log in as: it reads and writes rows and owns nothing.
--
-- This role is `donationd`, and its tables are in the schema `public`, unless the session names others. For one charity
-- of several (deploy/docs/charities.md):
--   psql -c "SET donationd.schema = 'helpers'" -c "SET donationd.role = 'helpers'" -f deploy/roles.sql postgresql://…
--
-- Run this file in the ledger's database, before the first migration or after it, and again after an upgrade that says so:
--   psql -f deploy/roles.sql postgresql://…
-- A superuser needs one run. So does the database's owner, with CREATEROLE or without: what its rights do not allow is
-- printed, and an administrator runs that in the same database. What is already done is not done again.
--
-- The password is no part of this file: set it with \password, or ALTER ROLE.
-- What a database can't take from a role by itself, pg_hba.conf does; other databases of the same server let every role in:
--   host  <the ledger's database>  <the role>  <the API's address>  scram-sha-256
DO $roles$
DECLARE
    ledger name := coalesce(nullif(current_setting('donationd.schema', true), ''), 'public');
    writer name := coalesce(nullif(current_setting('donationd.role', true), ''), 'donationd');
    -- Who makes the ledger's tables: the role that migrated, or, before the first migration, the roles that may.
    owners name[];
    owner name;
    setting text[];
    -- The tables that are only added to: the journal, the audit log, closed reports, the ledger's keys, the time since when
    -- mails are sent, balance transactions and payouts. All others may be changed.
    additive name[] := ARRAY['ledger_entries', 'operator_acts', 'audit_chain', 'closed_reports', 'ledger_keys', 'mail_start',
                             'balance_transactions', 'payouts'];
    additive_there text;
    -- The receipts, whose numbers have no gaps, and the mails about them: their rows are changed and never deleted.
    kept name[] := ARRAY['receipts', 'outbox'];
    kept_there text;
    changeable text;
    deletable text;
    -- Pairs of a condition and the command after which it holds.
    steps text[] := ARRAY[]::text[];
    step text[];
    holds boolean;
    commands_left text := '';
    messages text := current_setting('client_min_messages');
    path text := current_setting('search_path');
BEGIN
    -- A superuser runs this: no function that another role has made, in `public` for example, takes the place of PostgreSQL's.
    PERFORM set_config('search_path', 'pg_catalog', true);
    IF to_regnamespace(quote_ident(ledger)) IS NULL THEN
        RAISE EXCEPTION 'the schema % does not exist', ledger
            USING HINT = format('Run first: CREATE SCHEMA %I AUTHORIZATION <the role that migrates>', ledger);
    END IF;
    SELECT array_agg(rolname ORDER BY rolname) INTO owners FROM pg_roles
    WHERE CASE WHEN to_regclass(format('%I.schema_migrations', ledger)) IS NOT NULL
          THEN oid = (SELECT relowner FROM pg_class WHERE oid = to_regclass(format('%I.schema_migrations', ledger)))
          WHEN ledger = 'public'
          THEN rolname = current_user OR oid = (SELECT datdba FROM pg_database WHERE datname = current_database())
          ELSE oid = (SELECT nspowner FROM pg_namespace WHERE nspname = ledger) END;

    SELECT string_agg(format('%I.%I', ledger, relname), ', ' ORDER BY relname) FILTER (WHERE relname <> ALL (additive)),
           string_agg(format('%I.%I', ledger, relname), ', ' ORDER BY relname) FILTER (WHERE relname <> ALL (additive || kept)),
           string_agg(format('%I.%I', ledger, relname), ', ' ORDER BY relname) FILTER (WHERE relname = ANY (additive)),
           string_agg(format('%I.%I', ledger, relname), ', ' ORDER BY relname) FILTER (WHERE relname = ANY (kept))
    INTO changeable, deletable, additive_there, kept_there FROM pg_class
    WHERE relnamespace = quote_ident(ledger)::regnamespace AND relkind IN ('r', 'p');

    -- %1$ is the role, %2$ the schema, %3$ the tables of the condition.
    steps := steps || ARRAY[
        [format($$EXISTS (SELECT FROM pg_roles WHERE rolname = %1$L)$$, writer),
         format('CREATE ROLE %1$I LOGIN', writer)],
        -- Every role may connect, and make temporary tables and large objects, unless it is taken away.
        [$$NOT has_database_privilege('public', current_database(), 'TEMPORARY')$$,
         format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database())],
        [format($$has_database_privilege(%1$L, current_database(), 'CONNECT')$$, writer),
         format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), writer)],
        [$$NOT (has_function_privilege('public', 'lo_creat(integer)', 'EXECUTE')
                OR has_function_privilege('public', 'lo_create(oid)', 'EXECUTE')
                OR has_function_privilege('public', 'lo_from_bytea(oid, bytea)', 'EXECUTE'))$$,
         'REVOKE EXECUTE ON FUNCTION lo_creat(integer), lo_create(oid), lo_from_bytea(oid, bytea) FROM PUBLIC'],
        -- Before PostgreSQL 15 every role could create tables in public.
        [$$NOT has_schema_privilege('public', 'public', 'CREATE')$$,
         'REVOKE CREATE ON SCHEMA public FROM PUBLIC'],
        [format($$has_schema_privilege(%1$L, %2$L, 'USAGE')$$, writer, ledger),
         format('GRANT USAGE ON SCHEMA %2$I TO %1$I', writer, ledger)],
        -- What exists already.
        [format($$NOT EXISTS (
             SELECT FROM pg_class WHERE relnamespace = quote_ident(%2$L)::regnamespace AND relkind IN ('r', 'p')
             AND NOT (has_table_privilege(%1$L, oid, 'SELECT') AND has_table_privilege(%1$L, oid, 'INSERT')))$$,
                writer, ledger),
         format('GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA %2$I TO %1$I', writer, ledger)],
        -- CASE: otherwise PostgreSQL may ask for the rights of a role that does not exist, on tables that are not meant.
        [format($$NOT EXISTS (
             SELECT FROM pg_class WHERE CASE WHEN relnamespace = quote_ident(%2$L)::regnamespace AND relkind IN ('r', 'p')
             AND relname <> ALL (%3$L::name[]) THEN NOT has_table_privilege(%1$L, oid, 'UPDATE') END)$$,
                writer, ledger, additive),
         format('GRANT UPDATE ON %s TO %I', coalesce(changeable, '(no tables)'), writer)],
        [format($$NOT EXISTS (
             SELECT FROM pg_class WHERE CASE WHEN relnamespace = quote_ident(%2$L)::regnamespace AND relkind IN ('r', 'p')
             AND relname <> ALL (%3$L::name[]) THEN NOT has_table_privilege(%1$L, oid, 'DELETE') END)$$,
                writer, ledger, additive || kept),
         format('GRANT DELETE ON %s TO %I', coalesce(deletable, '(no tables)'), writer)],
        -- Their migrations revoke the rest too, for a role that had it by default.
        [format($$NOT EXISTS (
             SELECT FROM pg_class WHERE relnamespace = quote_ident(%2$L)::regnamespace AND relname = ANY (%3$L::name[])
             AND relkind IN ('r', 'p')
             AND (has_table_privilege(%1$L, oid, 'UPDATE') OR has_table_privilege(%1$L, oid, 'DELETE')))$$,
                writer, ledger, additive),
         format('REVOKE UPDATE, DELETE ON %s FROM %I', coalesce(additive_there, '(no tables)'), writer)],
        [format($$NOT EXISTS (
             SELECT FROM pg_class WHERE CASE WHEN relnamespace = quote_ident(%2$L)::regnamespace AND relkind IN ('r', 'p')
             AND relname = ANY (%3$L::name[]) THEN has_table_privilege(%1$L, oid, 'DELETE') END)$$, writer, ledger, kept),
         format('REVOKE DELETE ON %s FROM %I', coalesce(kept_there, '(no tables)'), writer)],
        [format($$NOT EXISTS (
             SELECT FROM pg_class WHERE relnamespace = quote_ident(%2$L)::regnamespace AND relkind = 'S'
             AND NOT (has_sequence_privilege(%1$L, oid, 'USAGE') AND has_sequence_privilege(%1$L, oid, 'SELECT')))$$,
                writer, ledger),
         format('GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA %2$I TO %1$I', writer, ledger)]
    ];

    -- What later migrations create.
    FOREACH owner IN ARRAY owners LOOP
        steps := steps || ARRAY[
            [format($$4 = (SELECT count(*) FROM pg_default_acl d, aclexplode(d.defaclacl) a
                           WHERE d.defaclrole = %L::regrole AND d.defaclnamespace = quote_ident(%L)::regnamespace
                           AND d.defaclobjtype = 'r' AND a.grantee = quote_ident(%L)::regrole)$$,
                    quote_ident(owner), ledger, writer),
             format('ALTER DEFAULT PRIVILEGES FOR ROLE %I IN SCHEMA %I GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO %I',
                    owner, ledger, writer)],
            [format($$2 = (SELECT count(*) FROM pg_default_acl d, aclexplode(d.defaclacl) a
                           WHERE d.defaclrole = %L::regrole AND d.defaclnamespace = quote_ident(%L)::regnamespace
                           AND d.defaclobjtype = 'S' AND a.grantee = quote_ident(%L)::regrole)$$,
                    quote_ident(owner), ledger, writer),
             format('ALTER DEFAULT PRIVILEGES FOR ROLE %I IN SCHEMA %I GRANT USAGE, SELECT ON SEQUENCES TO %I',
                    owner, ledger, writer)]
        ];
    END LOOP;

    -- PostgreSQL's log. A statement of donationd has donors' last names, countries and hashes in it, and PostgreSQL logs the
    -- text of each statement that fails. These settings keep statements, rows and values out of the log, for the sessions
    -- of these roles in this database only. Other extensions that log statements, such as pgaudit, have settings of their
    -- own.
    FOREACH owner IN ARRAY writer || owners LOOP
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
            steps := steps || ARRAY[[
                format($$EXISTS (SELECT FROM pg_db_role_setting
                                 WHERE setrole = %L::regrole
                                 AND setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
                                 AND %L = ANY(setconfig))$$, quote_ident(owner), setting[1] || '=' || setting[2]),
                format('ALTER ROLE %I IN DATABASE %I SET %s = %L', owner, current_database(), setting[1], setting[2])
            ]];
        END LOOP;
    END LOOP;

    PERFORM set_config('client_min_messages', 'error', true);
    FOREACH step SLICE 1 IN ARRAY steps LOOP
        BEGIN
            EXECUTE 'SELECT ' || step[1] INTO holds;
            IF NOT holds THEN
                EXECUTE step[2];
                EXECUTE 'SELECT ' || step[1] INTO holds;  -- for some rights that are lacking there is only a warning
            END IF;
        EXCEPTION
            WHEN insufficient_privilege THEN
                holds := false;
            WHEN undefined_object THEN  -- the role, which an administrator must create first
                holds := false;
        END;
        IF NOT holds THEN
            commands_left := commands_left || E'\n' || step[2] || ';';
        END IF;
    END LOOP;
    PERFORM set_config('client_min_messages', messages, true), set_config('search_path', path, true);
    IF commands_left <> '' THEN
        RAISE WARNING E'% may not do everything. Until a superuser runs these commands in the database %, donationd '
            'does not start, or PostgreSQL''s log can contain donors'' data:%', current_user, current_database(), commands_left;
    END IF;
END
$roles$;

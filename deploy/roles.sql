-- The role the API and the sidecar log in as: it reads and writes rows and owns nothing.
--
-- Run this file in the ledger's database, before the first migration or after it, and again after an upgrade that says so:
--   psql -f deploy/roles.sql postgresql://…
-- A superuser needs one run. So does the database's owner, with CREATEROLE or without: what its rights do not allow is
-- printed, and an administrator runs that in the same database. What is already done is not done again.
--
-- The password is no part of this file: set it with \password donationd, or ALTER ROLE.
-- What a database can't take from a role by itself, pg_hba.conf does; other databases of the same server let every role in:
--   host  <the ledger's database>  donationd  <the API's address>  scram-sha-256
DO $roles$
DECLARE
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
BEGIN
    SELECT array_agg(rolname ORDER BY rolname) INTO owners FROM pg_roles
    WHERE CASE WHEN to_regclass('public.schema_migrations') IS NOT NULL
          THEN oid = (SELECT relowner FROM pg_class WHERE oid = to_regclass('public.schema_migrations'))
          ELSE rolname = current_user OR oid = (SELECT datdba FROM pg_database WHERE datname = current_database()) END;

    SELECT string_agg(format('public.%I', relname), ', ' ORDER BY relname) FILTER (WHERE relname <> ALL (additive)),
           string_agg(format('public.%I', relname), ', ' ORDER BY relname) FILTER (WHERE relname <> ALL (additive || kept)),
           string_agg(format('public.%I', relname), ', ' ORDER BY relname) FILTER (WHERE relname = ANY (additive)),
           string_agg(format('public.%I', relname), ', ' ORDER BY relname) FILTER (WHERE relname = ANY (kept))
    INTO changeable, deletable, additive_there, kept_there FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p');

    steps := steps || ARRAY[
        [$$EXISTS (SELECT FROM pg_roles WHERE rolname = 'donationd')$$,
         'CREATE ROLE donationd LOGIN'],
        -- Every role may connect, and make temporary tables and large objects, unless it is taken away.
        [$$NOT has_database_privilege('public', current_database(), 'TEMPORARY')$$,
         format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database())],
        [$$has_database_privilege('donationd', current_database(), 'CONNECT')$$,
         format('GRANT CONNECT ON DATABASE %I TO donationd', current_database())],
        [$$NOT (has_function_privilege('public', 'lo_creat(integer)', 'EXECUTE')
                OR has_function_privilege('public', 'lo_create(oid)', 'EXECUTE')
                OR has_function_privilege('public', 'lo_from_bytea(oid, bytea)', 'EXECUTE'))$$,
         'REVOKE EXECUTE ON FUNCTION lo_creat(integer), lo_create(oid), lo_from_bytea(oid, bytea) FROM PUBLIC'],
        -- Before PostgreSQL 15 every role could create tables in public.
        [$$NOT has_schema_privilege('public', 'public', 'CREATE')$$,
         'REVOKE CREATE ON SCHEMA public FROM PUBLIC'],
        [$$has_schema_privilege('donationd', 'public', 'USAGE')$$,
         'GRANT USAGE ON SCHEMA public TO donationd'],
        -- What exists already.
        [$$NOT EXISTS (
             SELECT FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
             AND NOT (has_table_privilege('donationd', oid, 'SELECT') AND has_table_privilege('donationd', oid, 'INSERT')))$$,
         'GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO donationd'],
        -- CASE: otherwise PostgreSQL may ask for the rights of a role that does not exist, on tables that are not meant.
        [format($$NOT EXISTS (
             SELECT FROM pg_class WHERE CASE WHEN relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
             AND relname <> ALL (%L::name[]) THEN NOT has_table_privilege('donationd', oid, 'UPDATE') END)$$, additive),
         'GRANT UPDATE ON ' || coalesce(changeable, '(no tables)') || ' TO donationd'],
        [format($$NOT EXISTS (
             SELECT FROM pg_class WHERE CASE WHEN relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
             AND relname <> ALL (%L::name[]) THEN NOT has_table_privilege('donationd', oid, 'DELETE') END)$$,
                additive || kept),
         'GRANT DELETE ON ' || coalesce(deletable, '(no tables)') || ' TO donationd'],
        -- Their migrations revoke the rest too, for a role that had it by default.
        [format($$NOT EXISTS (
             SELECT FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname = ANY (%L::name[])
             AND relkind IN ('r', 'p')
             AND (has_table_privilege('donationd', oid, 'UPDATE') OR has_table_privilege('donationd', oid, 'DELETE')))$$,
                additive),
         'REVOKE UPDATE, DELETE ON ' || coalesce(additive_there, '(no tables)') || ' FROM donationd'],
        [format($$NOT EXISTS (
             SELECT FROM pg_class WHERE CASE WHEN relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
             AND relname = ANY (%L::name[]) THEN has_table_privilege('donationd', oid, 'DELETE') END)$$, kept),
         'REVOKE DELETE ON ' || coalesce(kept_there, '(no tables)') || ' FROM donationd'],
        [$$NOT EXISTS (
             SELECT FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'S'
             AND NOT (has_sequence_privilege('donationd', oid, 'USAGE') AND has_sequence_privilege('donationd', oid, 'SELECT')))$$,
         'GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO donationd']
    ];

    -- What later migrations create.
    FOREACH owner IN ARRAY owners LOOP
        steps := steps || ARRAY[
            [format($$4 = (SELECT count(*) FROM pg_default_acl d, aclexplode(d.defaclacl) a
                           WHERE d.defaclrole = %L::regrole AND d.defaclnamespace = 'public'::regnamespace
                           AND d.defaclobjtype = 'r' AND a.grantee = 'donationd'::regrole)$$, quote_ident(owner)),
             format('ALTER DEFAULT PRIVILEGES FOR ROLE %I IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO '
                    'donationd', owner)],
            [format($$2 = (SELECT count(*) FROM pg_default_acl d, aclexplode(d.defaclacl) a
                           WHERE d.defaclrole = %L::regrole AND d.defaclnamespace = 'public'::regnamespace
                           AND d.defaclobjtype = 'S' AND a.grantee = 'donationd'::regrole)$$, quote_ident(owner)),
             format('ALTER DEFAULT PRIVILEGES FOR ROLE %I IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO donationd',
                    owner)]
        ];
    END LOOP;

    -- PostgreSQL's log. A statement of donationd has donors' last names, countries and hashes in it, and PostgreSQL logs the
    -- text of each statement that fails. These settings keep statements, rows and values out of the log, for the sessions
    -- of these roles in this database only. Other extensions that log statements, such as pgaudit, have settings of their
    -- own.
    FOREACH owner IN ARRAY 'donationd'::name || owners LOOP
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
            WHEN undefined_object THEN  -- the role donationd, which an administrator must create first
                holds := false;
        END;
        IF NOT holds THEN
            commands_left := commands_left || E'\n' || step[2] || ';';
        END IF;
    END LOOP;
    PERFORM set_config('client_min_messages', messages, true);
    IF commands_left <> '' THEN
        RAISE WARNING E'% may not do everything. Until a superuser runs these commands in the database %, donationd '
            'does not start, or PostgreSQL''s log can contain donors'' data:%', current_user, current_database(), commands_left;
    END IF;
END
$roles$;

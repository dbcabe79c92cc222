"""What a role of PostgreSQL may do, by trying it: rows, and nothing else."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg2
from psycopg2 import errors

# Each is a way to more than rows, by a role that can send any statement it likes.
FORBIDDEN = [
    "CREATE TABLE mine (id int)",
    "CREATE TEMPORARY TABLE mine (id int)",
    "SELECT 1 AS one INTO mine",
    "CREATE SCHEMA mine",
    "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE INDEX mine ON stripe_events (type)",
    "DROP EXTENSION plpgsql",
    "CREATE DATABASE mine",
    "CREATE ROLE mine",
    "CREATE TABLESPACE mine LOCATION '/tmp'",
    "CREATE PUBLICATION mine FOR ALL TABLES",
    "CREATE EVENT TRIGGER mine ON ddl_command_end EXECUTE FUNCTION pg_notify()",
    "CREATE TRIGGER mine AFTER INSERT ON stripe_events EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "ALTER TABLE stripe_events ADD COLUMN mine text",
    "ALTER TABLE stripe_events DISABLE TRIGGER ALL",
    "ALTER TABLE stripe_events OWNER TO CURRENT_USER",
    "ALTER ROLE CURRENT_USER SUPERUSER",
    "ALTER SYSTEM SET log_statement = 'all'",
    "DROP TABLE stripe_events",
    "TRUNCATE stripe_events",
    "TRUNCATE ledger_entries",
    "UPDATE ledger_entries SET amount_minor = 1",
    "DELETE FROM ledger_entries",
    "UPDATE operator_acts SET actor = 'alex'",
    "DELETE FROM operator_acts",
    "TRUNCATE operator_acts, audit_chain",
    "UPDATE audit_chain SET hash = previous_hash",
    "DELETE FROM audit_chain",
    "DELETE FROM receipts",
    "TRUNCATE receipts, outbox",
    "DELETE FROM outbox",
    "UPDATE mail_start SET started_at = now()",
    "UPDATE closed_reports SET sha256 = ''",
    "DELETE FROM closed_reports",
    "TRUNCATE closed_reports",
    "UPDATE ledger_keys SET key = ''",
    "DELETE FROM ledger_keys",
    "UPDATE balance_transactions SET fee_minor = 0",
    "DELETE FROM balance_transactions",
    "TRUNCATE balance_transactions",
    "UPDATE payouts SET amount_minor = 0",
    "DELETE FROM payouts",
    "COMMENT ON TABLE stripe_events IS 'mine'",
    "COPY stripe_events TO PROGRAM 'cat'",
    "COPY stripe_events FROM PROGRAM 'true'",
    "COPY stripe_events TO '/tmp/mine'",
    "COPY stripe_events FROM '/etc/passwd'",
    "SELECT * FROM pg_authid",
    "SELECT * FROM pg_shadow",
    "SELECT * FROM pg_hba_file_rules",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_ls_dir('.')",
    "SELECT pg_reload_conf()",
    "SELECT pg_switch_wal()",
    "SELECT lo_create(0)",
    "SELECT lo_creat(-1)",
    "SELECT lo_from_bytea(0, 'mine')",
    "SELECT lo_import('/etc/passwd')",
    "SET session_replication_role = replica",
    "SET ROLE donationd_owner",
    "SET SESSION AUTHORIZATION donationd_owner",
]


ADDITIVE = {
    *("ledger_entries", "operator_acts", "audit_chain", "closed_reports", "ledger_keys", "mail_start"),
    *("balance_transactions", "payouts"),
}
KEPT = {"receipts", "outbox"}


def rights_on(table: str) -> set[str]:
    """What the role may do with a table's rows: the journal, the audit log and closed reports are only added to, and
    receipts and mails are never deleted."""
    rights = {"SELECT", "INSERT"} | (set() if table in ADDITIVE else {"UPDATE", "DELETE"})
    return rights - {"DELETE"} if table in KEPT else rights


@contextmanager
def attempting(url: str) -> Iterator[psycopg2.extensions.cursor]:
    """A cursor of which each statement is a transaction of its own."""
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            yield cursor


def is_refused(cursor: psycopg2.extensions.cursor, statement: str) -> bool:
    """Whether the server refuses it for want of a right, and for no other reason."""
    try:
        cursor.execute(statement)
    except errors.InsufficientPrivilege:
        return True
    except psycopg2.Error as error:
        raise AssertionError(f"{statement}: {error}") from error
    return False


def check_only_rows(url: str, schema: str = "public") -> None:
    """Every table's rows can be read and written, and each forbidden statement is refused for want of a right."""
    with attempting(url) as cursor:
        cursor.execute("SELECT set_config('search_path', %s, false)", (schema,))
        assert [s for s in FORBIDDEN if not is_refused(cursor, s)] == []
        cursor.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'"
        )
        for (table,) in cursor.fetchall():
            for right in (
                "SELECT",
                "INSERT",
                "UPDATE",
                "DELETE",
                "TRUNCATE",
                "REFERENCES",
                "TRIGGER",
                "SELECT WITH GRANT OPTION",
            ):
                cursor.execute("SELECT has_table_privilege(%s, %s)", (table, right))
                assert cursor.fetchone() == (right in rights_on(table),), (table, right)
        cursor.execute("SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls, "
                       "(SELECT count(*) FROM pg_auth_members WHERE member = r.oid) "
                       "FROM pg_roles r WHERE rolname = current_user")  # fmt: skip
        assert cursor.fetchone() == (False, 0)

"""The schema of PostgreSQL that contains one charity's ledger (LEDGER_SCHEMA), and the roles that belong to it.

Statements name tables without a schema. The search path of each session names one schema, so that no statement reaches
another charity's ledger, whatever the role's or the server's own search path is. The keys of locks are made from it by
the server (queries/lock_ledger.sql).
"""

from psycopg2.extensions import cursor as Cursor
from psycopg2.extensions import encrypt_password
from psycopg2.sql import SQL, Identifier

PUBLIC = "public"  # the ledger of a database that has only one

# Part of the statement that each new session begins with. PostgreSQL adds pg_catalog by itself, before this schema.
SET_SEARCH_PATH = "set_config('search_path', quote_ident(%(schema)s), false)"


class SchemaTaken(Exception):
    """The schema exists and belongs to another role, whose name is the text."""


def has_role(cursor: Cursor, role: str) -> bool:
    """Whether the server has this role, for any of its databases."""
    cursor.execute("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = %s)", (role,))
    return cursor.fetchone() == (True,)


def make_role(cursor: Cursor, role: str, password: str, *, schema: str) -> None:
    """Creates a role that can log in, unless it exists, and sets its password and its search path in this database.

    Raises psycopg2.Error, among others without the right to create roles.
    """
    if not has_role(cursor, role):
        cursor.execute(SQL("CREATE ROLE {} LOGIN").format(Identifier(role)))
    # The server receives only the SCRAM verifier, so that no log can contain the password.
    verifier = encrypt_password(password, role, scope=cursor.connection, algorithm="scram-sha-256")
    cursor.execute(SQL("ALTER ROLE {} PASSWORD %s").format(Identifier(role)), (verifier,))
    # For psql and pg_dump: the sessions of donationd set it themselves.
    database = Identifier(cursor.connection.info.dbname)
    cursor.execute(
        SQL("ALTER ROLE {} IN DATABASE {} SET search_path = {}").format(Identifier(role), database, Identifier(schema))
    )


def make_schema(cursor: Cursor, schema: str, owner: str) -> None:
    """Creates a schema of this owner, unless it exists.

    Raises SchemaTaken, and psycopg2.Error, among others without the right to create schemas in this database.
    """
    cursor.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
    if cursor.fetchone() != (True,):  # who may create roles must be a member of one to give it something
        cursor.execute(SQL("GRANT {} TO CURRENT_USER").format(Identifier(owner)))
    cursor.execute("SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = %s", (schema,))
    found = cursor.fetchone()
    if found is None:
        cursor.execute(SQL("CREATE SCHEMA {} AUTHORIZATION {}").format(Identifier(schema), Identifier(owner)))
    elif found != (owner,):
        raise SchemaTaken(found[0])

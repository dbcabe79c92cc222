"""The rights of a ledger's roles: deploy/roles.sql, run for one schema and one role."""

from psycopg2.extensions import cursor as Cursor

from daemon.instance.installation import ROOT

ROLES = ROOT / "deploy" / "roles.sql"
SETTINGS = "SELECT set_config('donationd.schema', %(schema)s, false), set_config('donationd.role', %(role)s, false)"


def set_rights(cursor: Cursor, *, schema: str, role: str) -> None:
    """Creates the role unless it exists, and gives it the rights on the rows of the schema's tables.

    What the present role may not do is in a warning of the connection's notices, as commands for an administrator.
    """
    cursor.execute(SETTINGS, {"schema": schema, "role": role})
    cursor.execute(ROLES.read_text())

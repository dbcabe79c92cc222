"""The schema's history: which migrations there are, which are applied, and applying the rest.

A migration is `migrations/NNNN_name.sql`; its SHA-256 is stored when it is applied, so that an edited file is detected.

Upgrades expand the schema first and use it later (SPEC 14): a migration that is newer than NEEDED only adds what no
statement of this release names, so that this release also runs on the schema of the release before it.
"""

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from importlib import resources

import psycopg2
from psycopg2 import errors
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor
from psycopg2.sql import SQL, Identifier

from sql import load
from sql.schemas import PUBLIC
from sql.statements import statements

NAME = re.compile(r"\d{4}_[a-z0-9_]+\.sql")
# The number of the newest migration that this release cannot do without: the newest one of the release before it. The
# next release raises it (CONTRIBUTING.md).
NEEDED = 30
CONNECT_TIMEOUT_S = 5
# A session that needs a table queues behind a statement that waits to alter it. After a second (deadlock_timeout)
# PostgreSQL looks for a deadlock, and would perhaps end a writer: a migration gives up before that.
LOCK_TIMEOUT_MS = 800
FIRST_PAUSE_S, MAX_PAUSE_S = 1.0, 10.0  # between attempts, doubled each time, so that the others can work
WAIT_S = 300.0

# For one transaction: behind a pooler in transaction mode the next one may have another session.
IN_SCHEMA = "SELECT set_config('search_path', quote_ident(%(schema)s), true)"
HISTORY = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    name       text PRIMARY KEY,
    sha256     text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)"""


class MigrationError(Exception):
    """A migration cannot be applied; the message explains why and what to do."""


@dataclass(frozen=True)
class Migration:
    """One file of `migrations/`: its name, its text, and its text's SHA-256 in hex."""

    name: str
    sql: str
    sha256: str


@dataclass(frozen=True)
class Drift:
    """How a database differs from the files: not yet applied, changed since, and unknown to this version."""

    missing: tuple[str, ...]
    edited: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def required(self) -> tuple[str, ...]:
        """The missing migrations that this release cannot do without."""
        return tuple(name for name in self.missing if number(name) <= NEEDED)

    def warning(self) -> str:
        """A sentence about missing migrations, if this release can do without all of them; else empty."""
        if self.required or not self.missing:
            return ""
        names = ", ".join(self.missing)
        return f"migrations not applied that only the next release needs: {names}. Run: donationd migrate"


def number(name: str) -> int:
    """The number of a migration, from its name."""
    return int(name.partition("_")[0])


def discover() -> tuple[Migration, ...]:
    """Every migration this version holds, in the order of their numbers."""
    folder = resources.files(__package__) / "migrations"
    files = sorted((f for f in folder.iterdir() if NAME.fullmatch(f.name)), key=lambda f: f.name)
    return tuple(_read(f.name, f.read_text(encoding="utf-8")) for f in files)


def _read(name: str, sql: str) -> Migration:
    return Migration(name, sql, hashlib.sha256(sql.encode()).hexdigest())


def compare(known: tuple[Migration, ...], applied: Mapping[str, str]) -> Drift:
    """Holds the files against a database's history.

    Args:
        known: this version's migrations.
        applied: name to SHA-256, as `schema_migrations` has them.
    """
    names = {m.name for m in known}
    return Drift(
        missing=tuple(m.name for m in known if m.name not in applied),
        edited=tuple(m.name for m in known if applied.get(m.name, m.sha256) != m.sha256),
        unknown=tuple(sorted(applied.keys() - names)),
    )


def drift(url: str, *, schema: str = PUBLIC) -> Drift:
    """What `donationd migrate --status` shows. Raises psycopg2.Error if the database cannot be reached."""
    with closing(_connect(url)) as connection:
        return compare(discover(), _applied(connection, schema))


def apply(url: str, report: Callable[[str], None] = lambda _line: None, *, schema: str = PUBLIC) -> list[str]:
    """Applies what is missing, each migration in a transaction of its own, one `donationd` at a time in a schema.

    Args:
        url: of a role that owns the schema, or that may create it if it does not exist.
        report: is called with a line for each migration applied, and when one must wait.
        schema: that of the ledger.

    Returns:
        The names of those applied now.

    Raises:
        MigrationError: an applied file was edited, or other sessions hold a lock for too long.
        psycopg2.Error: the database cannot be reached or rejects a statement.
    """
    known = discover()
    applied = []
    with closing(_connect(url)) as connection:
        _with_locks(connection, schema, lambda cursor: _make_schema(cursor, schema), report)
        while name := _with_locks(connection, schema, lambda cursor: _apply_next(cursor, known), report):
            report(f"applied {name}")
            applied.append(name)
    return applied


def _make_schema(cursor: Cursor, schema: str) -> None:
    """Creates the schema if it does not exist: in a transaction of its own, because the migration lock is that of an
    existing schema. Raises MigrationError.
    """
    cursor.execute("SELECT to_regnamespace(quote_ident(%s)) IS NOT NULL", (schema,))
    if cursor.fetchone() == (True,):
        return
    try:
        cursor.execute(SQL("CREATE SCHEMA {}").format(Identifier(schema)))
    except errors.InsufficientPrivilege:
        raise MigrationError(
            f"the schema {schema} does not exist, and this role may not create it. "
            f"Compare it with LEDGER_SCHEMA, or create it with: donationd charities add {schema}"
        ) from None


def _apply_next(cursor: Cursor, known: tuple[Migration, ...]) -> str | None:
    """Applies the first migration that is missing. Returns its name; None if none is missing. Raises MigrationError."""
    cursor.execute(HISTORY)
    cursor.execute(load("applied_migrations"))
    state = compare(known, dict(cursor.fetchall()))
    if state.edited:
        raise MigrationError(
            f"already applied, but edited since: {', '.join(state.edited)}. "
            "Restore the files as they were released; changes belong in a new migration."
        )
    for migration in known:
        if migration.name in state.missing:
            for statement in statements(migration.sql):
                cursor.execute(statement)
            cursor.execute(
                "INSERT INTO schema_migrations (name, sha256) VALUES (%s, %s)", (migration.name, migration.sha256)
            )
            return migration.name
    return None


def _with_locks(
    connection: Connection, schema: str, step: Callable[[Cursor], str | None], report: Callable[[str], None]
) -> str | None:
    """Runs a step in a transaction that has the migration lock.

    Where another session holds a lock that it needs, the step is rolled back and tried again later, so that the
    statements of others do not queue behind it for long. Raises MigrationError after WAIT_S.
    """
    give_up_s = time.monotonic() + WAIT_S
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(IN_SCHEMA, {"schema": schema})
                cursor.execute("SELECT set_config('lock_timeout', %s, true)", (str(LOCK_TIMEOUT_MS),))
                cursor.execute(load("lock_migrations"))
                return step(cursor)
        except (errors.LockNotAvailable, errors.DeadlockDetected):
            if time.monotonic() > give_up_s:
                raise MigrationError(
                    "other sessions hold a lock that the next migration needs, or another migration is running. What "
                    "was applied before stays. End long queries and dumps (pg_stat_activity shows them), and run this "
                    "again"
                ) from None
        if pause_s == FIRST_PAUSE_S:
            report("waiting for a lock that another session holds; others are not blocked meanwhile")
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, MAX_PAUSE_S)


def _connect(url: str) -> Connection:
    return psycopg2.connect(url, connect_timeout=CONNECT_TIMEOUT_S, application_name="donationd migrate")


def _applied(connection: Connection, schema: str) -> dict[str, str]:
    with connection, connection.cursor() as cursor:
        cursor.execute(IN_SCHEMA, {"schema": schema})
        cursor.execute("SELECT to_regclass('schema_migrations') IS NOT NULL")
        row = cursor.fetchone()
        if row is None or not row[0]:
            return {}
        cursor.execute(load("applied_migrations"))
        return dict(cursor.fetchall())

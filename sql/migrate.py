"""The schema's history: which migrations there are, which are applied, and applying the rest.

A migration is `migrations/NNNN_name.sql`; its SHA-256 is stored when it is applied, so that an edited file is detected.
"""

import hashlib
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib import resources

import psycopg2
from psycopg2.extensions import connection as Connection

from sql import load

NAME = re.compile(r"\d{4}_[a-z0-9_]+\.sql")
CONNECT_TIMEOUT_S = 5
LOCK_KEY = 5_011_684_201  # any number, the same for every donationd: one migration at a time
LOCK_WAIT_S = 60.0
LOCK_POLL_S = 0.2

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


def drift(url: str) -> Drift:
    """What `donationd migrate --status` shows. Raises psycopg2.Error if the database cannot be reached."""
    with closing(_connect(url)) as connection:
        return compare(discover(), _applied(connection))


def apply(url: str, report: Callable[[str], None] = lambda _line: None) -> list[str]:
    """Applies what is missing, each migration in a transaction of its own, one `donationd` at a time.

    Args:
        url: of a role that owns the schema.
        report: is called with a line for each migration applied.

    Returns:
        The names of those applied now.

    Raises:
        MigrationError: an applied file was edited, or another migration holds the lock for too long.
        psycopg2.Error: the database cannot be reached or rejects a statement.
    """
    with closing(_connect(url)) as connection, _lock(connection):
        with connection, connection.cursor() as cursor:
            cursor.execute(HISTORY)
        state = compare(discover(), _applied(connection))
        if state.edited:
            raise MigrationError(
                f"already applied, but edited since: {', '.join(state.edited)}. "
                "Restore the files as they were released; changes belong in a new migration."
            )
        for migration in (m for m in discover() if m.name in state.missing):
            _apply_one(connection, migration)
            report(f"applied {migration.name}")
        return list(state.missing)


def _apply_one(connection: Connection, migration: Migration) -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute(migration.sql)
        cursor.execute(
            "INSERT INTO schema_migrations (name, sha256) VALUES (%s, %s)", (migration.name, migration.sha256)
        )


def _connect(url: str) -> Connection:
    return psycopg2.connect(url, connect_timeout=CONNECT_TIMEOUT_S, application_name="donationd migrate")


def _applied(connection: Connection) -> dict[str, str]:
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('schema_migrations') IS NOT NULL")
        row = cursor.fetchone()
        if row is None or not row[0]:
            return {}
        cursor.execute(load("applied_migrations"))
        return dict(cursor.fetchall())


@contextmanager
def _lock(connection: Connection) -> Iterator[None]:
    """Holds the migration lock. It is polled: a blocking wait would deadlock beside CREATE INDEX CONCURRENTLY."""
    deadline = time.monotonic() + LOCK_WAIT_S
    while not _advisory(connection, "SELECT pg_try_advisory_lock(%s)"):
        if time.monotonic() > deadline:
            raise MigrationError("another migration is running; try again when it has ended")
        time.sleep(LOCK_POLL_S)
    try:
        yield
    finally:
        if not connection.closed:
            _advisory(connection, "SELECT pg_advisory_unlock(%s)")


def _advisory(connection: Connection, sql: str) -> bool:
    with connection, connection.cursor() as cursor:
        cursor.execute(sql, (LOCK_KEY,))
        row = cursor.fetchone()
        return row is not None and bool(row[0])

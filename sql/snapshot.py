"""Reads large parts of the database as of one time, row by row, beside live traffic."""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager

import psycopg2
from psycopg2.extensions import connection as Connection

from sql import load
from sql.connection import Row
from sql.errors import judge

CONNECT_TIMEOUT_S = 5
FETCH_ROWS = 1000  # per round trip; this many are in memory at a time


class Snapshot:
    """One read-only transaction: all that is read through it is of the same time."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._cursors = 0

    def stream(self, name: str, params: Mapping[str, object] | None = None) -> Iterator[Row]:
        """The rows of `queries/<name>.sql`, fetched as they are used."""
        self._cursors += 1
        with self._connection.cursor(name=f"stream_{self._cursors}") as cursor:
            cursor.itersize = FETCH_ROWS
            cursor.execute(load(name), params)
            yield from cursor

    def rows(self, name: str, params: Mapping[str, object] | None = None) -> list[Row]:
        """All rows of `queries/<name>.sql` at once."""
        with self._connection.cursor() as cursor:
            cursor.execute(load(name), params)
            return cursor.fetchall()


@contextmanager
def snapshot(url: str, application_name: str) -> Iterator[Snapshot]:
    """Opens a snapshot of the database at a libpq URL.

    Raises:
        DatabaseUnavailable: it cannot be reached, or was lost while it was read.
        StatementRejected: it does not accept a statement.
    """
    try:
        connection = psycopg2.connect(url, connect_timeout=CONNECT_TIMEOUT_S, application_name=application_name)
        with closing(connection):
            connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
            yield Snapshot(connection)
    except psycopg2.Error as error:
        raise judge(error) from None

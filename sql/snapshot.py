"""Reads large parts of the database as of one time, row by row, beside live traffic."""

import select
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager

import psycopg2
from psycopg2 import extensions
from psycopg2.extensions import connection as Connection

from sql import load
from sql.connection import Row
from sql.errors import judge
from sql.schemas import PUBLIC, SET_SEARCH_PATH

CONNECT_TIMEOUT_S = 5
FETCH_ROWS = 1000  # per round trip; this many are in memory at a time
SESSION = f"""
SELECT set_config('statement_timeout', %(statement)s, false),
       set_config('idle_in_transaction_session_timeout', %(idle)s, false),
       set_config('client_connection_check_interval', '1s', false),
       {SET_SEARCH_PATH}
"""


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

    def batches(self, name: str, params: Mapping[str, object] | None = None) -> Iterator[list[Row]]:
        """The same rows in lists of at most FETCH_ROWS, none of them empty."""
        self._cursors += 1
        with self._connection.cursor(name=f"batches_{self._cursors}") as cursor:
            cursor.execute(load(name), params)
            while rows := cursor.fetchmany(FETCH_ROWS):
                yield rows

    def rows(self, name: str, params: Mapping[str, object] | None = None) -> list[Row]:
        """All rows of `queries/<name>.sql` at once."""
        with self._connection.cursor() as cursor:
            cursor.execute(load(name), params)
            return cursor.fetchall()


@contextmanager
def snapshot(
    url: str,
    application_name: str,
    *,
    schema: str = PUBLIC,
    statement_timeout_s: float = 0,
    idle_timeout_s: float = 0,
) -> Iterator[Snapshot]:
    """Opens a snapshot of the database at a libpq URL. While it is open, the server keeps all rows that it can see.

    Args:
        schema: that of the ledger.
        statement_timeout_s: the server ends a statement, or a fetch of further rows, after this; 0: never.
        idle_timeout_s: the server ends the snapshot if nothing is read from it for so long; 0: never.

    Raises:
        DatabaseUnavailable: it cannot be reached, or was lost while it was read.
        StatementRejected: it does not accept a statement.
    """
    former = extensions.get_wait_callback()
    extensions.set_wait_callback(_wait)  # by itself the driver reacts to Ctrl-C only when the statement has ended
    try:
        connection = psycopg2.connect(url, connect_timeout=CONNECT_TIMEOUT_S, application_name=application_name)
        with closing(connection):
            connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
            with connection.cursor() as cursor:
                limits = {"statement": _ms(statement_timeout_s), "idle": _ms(idle_timeout_s)}
                cursor.execute(SESSION, {**limits, "schema": schema})
            yield Snapshot(connection)
    except psycopg2.Error as error:
        raise judge(error) from None
    finally:
        extensions.set_wait_callback(former)


def _wait(connection: Connection) -> None:
    """Waits for the server. An exception, such as that of Ctrl-C, closes the connection."""
    while (state := connection.poll()) != extensions.POLL_OK:
        ready = select.poll()
        ready.register(connection.fileno(), select.POLLIN if state == extensions.POLL_READ else select.POLLOUT)
        ready.poll()


def _ms(seconds: float) -> str:
    return str(int(seconds * 1000))

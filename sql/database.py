"""The only module that touches aiopg: bounded waits, and one exception for each reaction.

`DatabaseDown`: there is no database to speak of; try again later. `Refused`: it is there, and does not take this
statement; trying again is of no use.

aiopg's own defaults wait a minute for everything and report a statement over the server's time limit as
`asyncio.CancelledError`. Here every wait has a limit and every such failure is a `DatabaseDown`.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import aiopg
import psycopg2
from psycopg2 import errorcodes

Row = tuple[Any, ...]

# The client gives up a little after the server should have, so that the server's own answer is the usual one.
CLIENT_GRACE_S = 1.0

KIND_BY_SQLSTATE = {
    errorcodes.CANNOT_CONNECT_NOW: "database starting up",
    errorcodes.QUERY_CANCELED: "timeout",
    errorcodes.LOCK_NOT_AVAILABLE: "timeout",
    errorcodes.TOO_MANY_CONNECTIONS: "too many connections",
    errorcodes.INVALID_PASSWORD: "authentication failed",
    errorcodes.INVALID_AUTHORIZATION_SPECIFICATION: "authentication failed",
    errorcodes.READ_ONLY_SQL_TRANSACTION: "read only",
    errorcodes.DISK_FULL: "disk full",
    errorcodes.ADMIN_SHUTDOWN: "connection lost",
    errorcodes.CRASH_SHUTDOWN: "connection lost",
    errorcodes.SERIALIZATION_FAILURE: "conflict",
    errorcodes.DEADLOCK_DETECTED: "conflict",
}
KIND_BY_TEXT = (
    ("connection refused", "connection refused"),
    ("timeout", "timeout"),
    ("timed out", "timeout"),
    ("starting up", "database starting up"),
    ("shutting down", "connection lost"),
    ("too many", "too many connections"),
    ("remaining connection slots", "too many connections"),
    ("authentication failed", "authentication failed"),
    ("no password supplied", "authentication failed"),
    ("does not exist", "no such database or role"),
    ("could not translate host name", "unknown host"),
    ("closed", "connection lost"),
    ("terminat", "connection lost"),
)


class DatabaseDown(Exception):
    """The database could not be used; nothing is known to have been written.

    `kind` is a class of failure such as "timeout". It and `str()` name no host, user, value or driver text, so both
    may be shown to anybody.
    """

    def __init__(self, kind: str) -> None:
        super().__init__(f"database unavailable: {kind}")
        self.kind = kind


class Refused(Exception):
    """The database does not take this statement. The message names the error's class, never a value."""

    def __init__(self, error: psycopg2.Error) -> None:
        self.sqlstate = error.pgcode or ""
        constraint = error.diag.constraint_name
        super().__init__(f"the database refused it: {_name(self.sqlstate)}{f' ({constraint})' if constraint else ''}")

    @property
    def for_its_values(self) -> bool:
        """Whether the values are at fault (SQLSTATE class 21, 22 or 23), not the schema or a permission."""
        return self.sqlstate[:2] in ("21", "22", "23")


def _name(sqlstate: str) -> str:
    """A SQLSTATE's name, such as "check violation"."""
    try:
        return errorcodes.lookup(sqlstate).lower().replace("_", " ")
    except KeyError:
        return f"SQLSTATE {sqlstate}" if sqlstate else "unknown error"


def classify(error: BaseException) -> str:
    """The kind of outage a driver's error stands for, as one of a few fixed phrases."""
    if isinstance(error, TimeoutError | asyncio.CancelledError):
        return "timeout"
    state = getattr(error, "pgcode", None)
    if state in KIND_BY_SQLSTATE:
        return KIND_BY_SQLSTATE[state]
    text = str(error).lower()
    return next((kind for part, kind in KIND_BY_TEXT if part in text), "other")


class Database:
    """A pool of connections to one PostgreSQL, opened on first use.

    Args:
        url: a libpq URL.
        pool_size: connections at most.
        statement_timeout_s: the server ends a statement after this.
        connect_timeout_s: for a free connection and for a new one.
        application_name: shown in pg_stat_activity.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int,
        statement_timeout_s: float,
        connect_timeout_s: float,
        application_name: str,
    ) -> None:
        self._url = url
        self._pool_size = pool_size
        self._statement_timeout_s = statement_timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._application_name = application_name
        self._pool: aiopg.Pool | None = None
        self._prepared: WeakKeyDictionary[aiopg.Connection, set[str]] = WeakKeyDictionary()
        # aiopg's own queue of waiters can lose a wake-up when connections break; this one can't.
        self._free = asyncio.Semaphore(pool_size)

    async def fetch(
        self, sql: str, params: Mapping[str, object] | Sequence[object] = (), *, prepare: str | None = None
    ) -> list[Row]:
        """Runs one statement in its own transaction and returns its rows (none if it has none to return).

        Args:
            prepare: what `sql` needs on its connection, such as a PREPARE; it is run once on each.

        Raises:
            DatabaseDown: it could not be reached or did not answer in time.
            Refused: the statement, or a value in it, is wrong.
        """
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                await self._free.acquire()
        except TimeoutError:
            raise DatabaseDown("pool exhausted") from None
        try:
            return await self._fetch(sql, params, prepare)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise DatabaseDown(classify(error)) from None
        except (TimeoutError, OSError, psycopg2.OperationalError, psycopg2.InterfaceError) as error:
            raise DatabaseDown(classify(error)) from None
        except psycopg2.Error as error:
            if error.pgcode in KIND_BY_SQLSTATE:
                raise DatabaseDown(classify(error)) from None
            # Not chained: PostgreSQL's own text can repeat a value.
            raise Refused(error) from None
        finally:
            self._free.release()

    async def _fetch(self, sql: str, params: Mapping[str, object] | Sequence[object], prepare: str | None) -> list[Row]:
        connection = await self._acquire()
        pool = self._pool
        assert pool is not None  # noqa: S101 - _acquire opened it
        try:
            async with connection.cursor(timeout=self._statement_timeout_s + CLIENT_GRACE_S) as cursor:
                if prepare is not None and prepare not in (prepared := self._prepared.setdefault(connection, set())):
                    await cursor.execute(prepare)
                    prepared.add(prepare)
                await cursor.execute(sql, params)
                return list(await cursor.fetchall()) if cursor.description else []
        except BaseException:
            # What the server still does on this connection is unknown: never hand it to anybody else.
            await connection.close()
            raise
        finally:
            await pool.release(connection)

    async def _acquire(self) -> aiopg.Connection:
        if self._pool is None:
            self._pool = await aiopg.create_pool(
                self._url,
                minsize=0,
                maxsize=self._pool_size,
                timeout=self._connect_timeout_s,
                enable_hstore=False,
                enable_json=True,
                on_connect=self._prepare,
                application_name=self._application_name,
            )
        async with asyncio.timeout(self._connect_timeout_s):
            connection = await self._pool.acquire()
        if connection.raw.closed == 0 and await self._is_alive(connection):
            return connection
        # A restart of the server leaves dead sockets behind: drop them all and connect anew, once.
        await connection.close()
        await self._pool.release(connection)
        await self._pool.clear()
        async with asyncio.timeout(self._connect_timeout_s):
            return await self._pool.acquire()

    @staticmethod
    async def _is_alive(connection: aiopg.Connection) -> bool:
        """Whether the socket is still open: a closed one reads as end of file without waiting."""
        try:
            connection.raw.poll()
        except psycopg2.Error:
            return False
        return bool(connection.raw.closed == 0)

    async def _prepare(self, connection: aiopg.Connection) -> None:
        async with connection.cursor() as cursor:
            await cursor.execute(
                "SELECT set_config('statement_timeout', %s, false)",
                (str(int(self._statement_timeout_s * 1000)),),
            )

    def stats(self) -> dict[str, int]:
        """Connections by state: used, idle, max."""
        pool = self._pool
        idle = pool.freesize if pool else 0
        return {"used": (pool.size - idle) if pool else 0, "idle": idle, "max": self._pool_size}

    async def close(self) -> None:
        """Closes every connection. The object can't be used afterwards."""
        if self._pool is not None:
            self._pool.terminate()
            await self._pool.wait_closed()

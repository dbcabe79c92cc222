"""A pool of connections to PostgreSQL in which every wait has a limit.

aiopg's own defaults wait a minute for everything, report a statement over the server's time limit as
`asyncio.CancelledError`, and never leave a server that is gone for another. Here every such failure is a
`DatabaseUnavailable`, and `sql.servers` says which server to try next.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from datetime import datetime
from functools import partial
from typing import Protocol

import psycopg2

from sql.connection import Connection, Connector, Params, Row
from sql.errors import (
    PREPARATION_LOST,
    SERVER_CHANGED,
    DatabaseUnavailable,
    classify,
    is_preparation_lost,
    judge,
)
from sql.schemas import PUBLIC
from sql.servers import Server

# The client gives up a little later than the server, so that it usually gets the server's own error.
CLIENT_GRACE_S = 1.0


class Queryable(Protocol):
    """What runs single statements: a `Database`, or `sql.replica.ReadDatabase`."""

    async def fetch(self, sql: str, params: Params = (), *, prepare: str | None = None) -> list[Row]:
        """As `Database.fetch`."""


class _PreparedLost(Exception):
    """What was prepared on the connection cannot be executed any more; nothing was done."""


class Database:
    """A pool of connections to one PostgreSQL, which may be several servers, opened on first use. All connections lead
    to the server that was reached last.

    `fetch` ends within `deadline_s`, whatever happens: `connect_timeout_s` for a free connection and for opening one
    if need be, then `statement_timeout_s` and CLIENT_GRACE_S for the statement and what prepares it.

    Args:
        url: a libpq URL; several hosts and target_session_attrs mean what they mean to libpq.
        pool_size: connections at most.
        statement_timeout_s: the server ends a statement after this.
        connect_timeout_s: for a free connection and for a new one, together; several hosts share it.
        application_name: shown in pg_stat_activity.
        schema: that of the ledger.
        noted: servers and their last failures in the log, shared by pools that shall not log the same again.

    Attributes:
        generation: changes when connections broke, or a new one led to another server. Those of an earlier one are
            closed, not kept.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int,
        statement_timeout_s: float,
        connect_timeout_s: float,
        application_name: str,
        schema: str = PUBLIC,
        noted: dict[Server, str] | None = None,
    ) -> None:
        noted = {} if noted is None else noted
        self._connector = Connector(url, schema, application_name, statement_timeout_s, noted)
        self._pool_size = pool_size
        self._statement_timeout_s = statement_timeout_s
        self._connect_timeout_s = connect_timeout_s
        # A pool of its own: in aiopg's, a connection that breaks wakes no waiting caller, and one that is slow to open
        # delays all others. Idle connections are taken from the end: those used last are most likely alive.
        self._free = asyncio.Semaphore(pool_size)
        self._idle: list[Connection] = []
        self._used: set[Connection] = set()
        self.generation = 0
        self._server: datetime | None = None  # that they lead to
        self._closed = False

    @property
    def deadline_s(self) -> float:
        """What one fetch takes at most."""
        return self._connect_timeout_s + self._statement_timeout_s + CLIENT_GRACE_S

    async def fetch(self, sql: str, params: Params = (), *, prepare: str | None = None) -> list[Row]:
        """Runs one statement in its own transaction and returns its rows (none if it has none to return).

        Args:
            prepare: a statement that `sql` needs on its connection, such as a PREPARE; it is run once on each.

        Raises:
            DatabaseUnavailable: it could not be reached or did not answer in time.
            StatementRejected: the statement, or a value in it, is wrong.
        """
        retry_by = asyncio.get_running_loop().time() + self.deadline_s
        with contextlib.suppress(_PreparedLost):
            return await self._run(sql, params, prepare)
        try:
            async with asyncio.timeout_at(retry_by):
                return await self._run(sql, params, prepare)
        except TimeoutError:
            raise DatabaseUnavailable("timeout") from None
        except _PreparedLost:
            raise DatabaseUnavailable(PREPARATION_LOST) from None

    async def _run(self, sql: str, params: Params, prepare: str | None) -> list[Row]:
        """One attempt. Raises _PreparedLost, DatabaseUnavailable or StatementRejected."""
        connection = await self._acquire()
        try:
            return await self._run_on(connection, self._statement_timeout_s, sql, params, prepare)
        finally:
            self._release(connection)

    async def _run_on(
        self, connection: Connection, timeout_s: float, sql: str, params: Params = (), prepare: str | None = None
    ) -> list[Row]:
        try:
            async with asyncio.timeout(timeout_s + CLIENT_GRACE_S):
                return await connection.run(sql, params, prepare)
        except (OSError, psycopg2.Error) as error:
            # Not chained, because PostgreSQL's own text can repeat a value.
            raise self._judge(error, connection, prepared=prepare is not None) from None

    @contextlib.asynccontextmanager
    async def snapshot(self, statement_timeout_s: float) -> "AsyncIterator[DatabaseSnapshot]":
        """One read-only transaction, on a connection that is closed at the end. While it is open, the server keeps all
        rows that it can see.

        Args:
            statement_timeout_s: for each statement, and for each fetch of further rows.

        Raises:
            DatabaseUnavailable, StatementRejected: as `fetch`; so do the functions of the snapshot.
        """
        connection = await self._acquire()
        try:
            snapshot = DatabaseSnapshot(partial(self._run_on, connection, statement_timeout_s))
            await snapshot.begin(statement_timeout_s)
            yield snapshot
        finally:
            connection.close()
            self._release(connection)

    def _judge(self, error: Exception, connection: Connection, *, prepared: bool) -> Exception:
        """What a statement's failure means for the caller, for its connection, and for the others."""
        if connection.closed:
            self._drop()
            return DatabaseUnavailable(classify(error))
        if prepared and is_preparation_lost(error):
            self._drop()
            return _PreparedLost()
        if getattr(error, "pgcode", None) in SERVER_CHANGED:
            self._drop()
        return judge(error)

    async def _acquire(self) -> Connection:
        connect_by = asyncio.get_running_loop().time() + self._connect_timeout_s
        try:
            async with asyncio.timeout_at(connect_by):
                await self._free.acquire()
        except TimeoutError:
            raise DatabaseUnavailable("pool exhausted") from None
        try:
            connection = self._take_idle() or await self._connect(connect_by)
        except BaseException:
            self._free.release()
            raise
        self._used.add(connection)
        return connection

    def _take_idle(self) -> Connection | None:
        if self._closed:
            raise DatabaseUnavailable("closed")
        if self._idle and not self._idle[-1].is_alive():
            # After a restart of the server all sockets are dead.
            self._drop()
        return self._idle.pop() if self._idle else None

    def _release(self, connection: Connection) -> None:
        self._used.discard(connection)
        if connection.generation == self.generation and connection.is_idle():
            self._idle.append(connection)
        else:
            connection.close()
        self._free.release()

    def _drop(self) -> None:
        """Closes idle connections now, and those in use when they are returned."""
        self.generation += 1
        while self._idle:
            self._idle.pop().close()

    async def _connect(self, connect_by: float) -> Connection:
        generation = self.generation
        connection = await self._connector.connect(connect_by)
        if self._server not in {None, connection.server}:
            self._drop()
            generation = self.generation
        self._server = connection.server
        connection.generation = generation
        return connection

    def stats(self) -> dict[str, int]:
        """Connections by state: used, idle, max."""
        return {"used": len(self._used), "idle": len(self._idle), "max": self._pool_size}

    async def close(self) -> None:
        """Closes every connection, those in use too. The pool cannot be used afterwards."""
        self._closed = True
        self._drop()
        for connection in tuple(self._used):
            connection.close()


class DatabaseSnapshot:
    """One read-only transaction: all that is read through it is of the same time. `snapshot.Snapshot` is the same for
    commands.
    """

    def __init__(self, run: Callable[..., Awaitable[list[Row]]]) -> None:
        self._run = run

    async def begin(self, statement_timeout_s: float) -> None:
        """Begins the transaction, with a time limit for each of its statements."""
        await self._run("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        await self._run("SELECT set_config('statement_timeout', %s, true)", [str(int(statement_timeout_s * 1000))])

    async def rows(self, sql: str, params: Params = ()) -> list[Row]:
        """All rows of a statement at once."""
        return await self._run(sql, params)

    async def batches(self, sql: str, params: Params, *, size: int) -> AsyncGenerator[list[Row], None]:
        """The rows of a statement in lists of at most `size`, none of them empty. One statement at a time."""
        await self._run(f"DECLARE rows NO SCROLL CURSOR FOR {sql}", params)
        while rows := await self._run(f"FETCH {size:d} FROM rows"):
            yield rows
        await self._run("CLOSE rows")

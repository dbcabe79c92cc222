"""The only module that touches aiopg: bounded waits, and one exception for each reaction.

`DatabaseDown`: there is no database to speak of; try again later. `Refused`: it is there, and does not take this
statement; trying again is of no use.

aiopg's own defaults wait a minute for everything, report a statement over the server's time limit as
`asyncio.CancelledError`, and never leave a server that is gone for another. Here every wait has a limit, every such
failure is a `DatabaseDown`, and servers.py says whom to try next.
"""

import asyncio
import contextlib
import ctypes
import logging
import math
import socket
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import aiopg
import psycopg2
import structlog
from psycopg2 import _psycopg, errorcodes, extensions

from sql.servers import Server, Servers

# Over the standard library's logger: a command that has not set up any logging prints none of this.
log = structlog.wrap_logger(logging.getLogger(__name__))

Row = tuple[Any, ...]
Params = Mapping[str, object] | Sequence[object]

# The client gives up a little after the server should have, so that the server's own answer is the usual one.
CLIENT_GRACE_S = 1.0

# Of a statement's time, what it may wait for a lock: then the server says that it was one, and not just that it took
# too long.
LOCK_SHARE = 0.8

# Said once on each connection. The third setting makes the server look, during a statement, whether its client is still
# there: what a caller gave up or a killed process left behind ends within a second, not at the time limit. The last two
# are for what is acknowledged after a commit: it waits at least until the commit is on the disk, and on the synchronous
# standby's if there is one, and the warning that this wait was cancelled is sent to us.
SESSION = """
SELECT set_config('statement_timeout', %(timeout_ms)s, false),
       set_config('lock_timeout', %(lock_timeout_ms)s, false),
       set_config('client_connection_check_interval', '1s', false),
       set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'remote_apply'
                                        THEN 'remote_apply' ELSE 'on' END, false),
       set_config('client_min_messages', 'warning', false)
"""
# The function of PostgreSQL that waits for a synchronous standby. Its warning has no SQLSTATE of its own, and its text
# may be translated; libpq adds the function's name if it is asked for all there is.
WAIT_FOR_STANDBY = "SyncRepWaitForLSN"
NOT_REPLICATED = "not replicated"
PQERRORS_VERBOSE = 2
# psycopg2 has no function for it. Its module's libraries are searched, and libpq is one of them.
_set_error_verbosity = ctypes.CDLL(_psycopg.__file__).PQsetErrorVerbosity
_set_error_verbosity.argtypes = (ctypes.c_void_p, ctypes.c_int)

# What PostgreSQL reports for reasons that pass: the kind of outage, by SQLSTATE or by its class (the first two
# characters). A later attempt of the same statement can succeed. With every other SQLSTATE it cannot: `Refused`.
KIND_BY_SQLSTATE = {
    "08": "connection lost",
    errorcodes.READ_ONLY_SQL_TRANSACTION: "read only",
    "25P03": "connection lost",  # idle_in_transaction_session_timeout
    "25P04": "timeout",  # transaction_timeout, since PostgreSQL 17
    "28": "authentication failed",
    "3D": "no such database or role",
    "40": "conflict",
    "53": "out of resources",
    errorcodes.DISK_FULL: "disk full",
    errorcodes.TOO_MANY_CONNECTIONS: "too many connections",
    errorcodes.OBJECT_IN_USE: "lock held",
    errorcodes.LOCK_NOT_AVAILABLE: "lock held",
    "57": "connection lost",
    errorcodes.QUERY_CANCELED: "timeout",
    errorcodes.CANNOT_CONNECT_NOW: "database starting up",
    errorcodes.DATABASE_DROPPED: "no such database or role",
    "58": "system error",
    "72": "conflict",  # the snapshot is too old
    "XX": "internal error",
    errorcodes.DATA_CORRUPTED: "data corrupted",
    errorcodes.INDEX_CORRUPTED: "data corrupted",
}
# What is refused because of its values: a cardinality, a value, a constraint, a view's check, a limit (such as an index
# entry that is too long), or a trigger that raises an exception. The same statement with other values can succeed.
FOR_ITS_VALUES = ("21", "22", "23", "44", "54", "P0")
# What a connection had prepared is gone (DISCARD, or a pooler that changes servers), or stands there already (such a
# pooler again). Nothing was done, and a new connection prepares it.
PREPARATION_LOST = "prepared statement lost"
PREPARED_LOST = {errorcodes.INVALID_SQL_STATEMENT_NAME, errorcodes.DUPLICATE_PREPARED_STATEMENT}
# "cached plan must not change result type" has the SQLSTATE of every unsupported feature. Its text may be translated,
# the name of PostgreSQL's function is not.
PLAN_OUTDATED = "RevalidateCachedQuery"
# PostgreSQL's own words for these hold the name of a table or a column, and nothing else of the statement.
ABOUT_A_NAME = {errorcodes.UNDEFINED_TABLE, errorcodes.UNDEFINED_COLUMN, errorcodes.INSUFFICIENT_PRIVILEGE}
# The server's answer to one statement that tells of all connections: it ends, or another has become the primary.
SERVER_CHANGED = {
    errorcodes.ADMIN_SHUTDOWN,
    errorcodes.CRASH_SHUTDOWN,
    errorcodes.READ_ONLY_SQL_TRANSACTION,
}
# For failures to connect: psycopg2 has nothing but libpq's text for them.
KIND_BY_TEXT = (
    ("no space left on device", "disk full"),  # the last words of a server that can't write its log
    ("connection refused", "connection refused"),
    ("no such file", "connection refused"),
    ("timeout", "timeout"),
    ("timed out", "timeout"),
    ("starting up", "database starting up"),
    ("not accepting connections", "database starting up"),
    ("in recovery mode", "database starting up"),
    ("shutting down", "connection lost"),
    ("too many", "too many connections"),
    ("remaining connection slots", "too many connections"),
    ("authentication failed", "authentication failed"),
    ("no password supplied", "authentication failed"),
    ("no pg_hba.conf entry", "authentication failed"),
    ("session is read-only", "read only"),
    ("server is in hot standby", "read only"),
    ("session is not read-only", "no standby"),
    ("server is not in hot standby", "no standby"),
    ("does not exist", "no such database or role"),
    ("could not translate host name", "unknown host"),
    ("unreachable", "unreachable"),
    ("no route to host", "unreachable"),
    ("invalid port number", "invalid DATABASE_URL"),
    ("invalid integer value", "invalid DATABASE_URL"),
    (' value: "', "invalid DATABASE_URL"),
    ("closed", "connection lost"),
    ("terminat", "connection lost"),
    ("reset by peer", "connection lost"),
    ("eof detected", "connection lost"),
    ("broken pipe", "connection lost"),
    ("no message from the libpq", "connection lost"),
)
# What a person can do about an outage of a kind, where that is known; without a person, it is tried again.
REMEDIES = {
    "authentication failed": "give the role the password of DATABASE_URL, or change DATABASE_URL and start again",
    "data corrupted": "restore the damaged tables or indexes from a backup; PostgreSQL's log names them",
    "disk full": "free space where PostgreSQL keeps its data",
    "internal error": "look in PostgreSQL's log",
    "lock held": "look for the session that holds it: pg_blocking_pids() in pg_stat_activity",
    "no such database or role": "create it, or change DATABASE_URL and start again",
    NOT_REPLICATED: "bring the synchronous standby back, or take it out of synchronous_standby_names",
    "out of resources": "look in PostgreSQL's log: its memory or a limit is used up",
    PREPARATION_LOST: "connect to PostgreSQL itself, or let the pooler work in session mode",
    "read only": "lead DATABASE_URL to the primary, or look who set default_transaction_read_only",
    "system error": "look in PostgreSQL's log: its operating system or its disk reports errors",
    "timeout": "look in pg_stat_activity for what is slow",
    "too many connections": "look in pg_stat_activity for who holds them, or raise max_connections",
}
# libpq tries no further server after these: the next would say the same, and might lock the role.
FINAL_KINDS = {"authentication failed"}


def remedy(kind: str) -> dict[str, str]:
    """What a person can do about an outage of this kind, as a log line takes it; empty where nothing is known."""
    return {"remedy": REMEDIES[kind]} if kind in REMEDIES else {}


class DatabaseDown(Exception):
    """The database could not be used; what was sent is not known to be durable, and may be sent again.

    `kind` is a class of failure such as "timeout". It and `str()` name no host, user, value or driver text, so both
    may be shown to anybody.
    """

    def __init__(self, kind: str) -> None:
        super().__init__(f"database unavailable: {kind}")
        self.kind = kind


class Refused(Exception):
    """The database does not take this statement. The message names the error's class, and of the schema what is not as
    it should be, never a value.
    """

    def __init__(self, error: psycopg2.Error) -> None:
        self.sqlstate = error.pgcode or ""
        about = error.diag.message_primary if self.sqlstate in ABOUT_A_NAME else error.diag.constraint_name
        super().__init__(f"the database refused it: {_name(self.sqlstate)}{f' ({about})' if about else ''}")

    @property
    def for_its_values(self) -> bool:
        """Whether the values are at fault, not the schema or a permission."""
        return self.sqlstate[:2] in FOR_ITS_VALUES


class _PreparedLost(Exception):
    """What the connection had prepared can't be executed any more; nothing was done."""


def _name(sqlstate: str) -> str:
    """A SQLSTATE's name, such as "check violation"."""
    try:
        return errorcodes.lookup(sqlstate).lower().replace("_", " ")
    except KeyError:
        return f"SQLSTATE {sqlstate}" if sqlstate else "unknown error"


def classify(error: BaseException) -> str:
    """The kind of outage a driver's error stands for, as one of a few fixed phrases."""
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, socket.gaierror):
        return "unknown host"
    if kind := _kind_by_sqlstate(error):
        return kind
    text = str(error).lower()
    return next((kind for part, kind in KIND_BY_TEXT if part in text), "other")


def judge(error: Exception) -> DatabaseDown | Refused:
    """What a driver's error means for the caller whose statement it answers."""
    is_driver_s_own = isinstance(error, OSError | psycopg2.OperationalError | psycopg2.InterfaceError)
    if not isinstance(error, psycopg2.Error) or _kind_by_sqlstate(error) or (is_driver_s_own and not error.pgcode):
        return DatabaseDown(classify(error))
    return Refused(error)


def _kind_by_sqlstate(error: BaseException) -> str | None:
    state = getattr(error, "pgcode", None) or ""
    return KIND_BY_SQLSTATE.get(state) or KIND_BY_SQLSTATE.get(state[:2])


def _lost_its_preparation(error: Exception) -> bool:
    """Whether what was prepared on the connection can no longer be executed there."""
    if not isinstance(error, psycopg2.Error):
        return False
    return error.pgcode in PREPARED_LOST or error.diag.source_function == PLAN_OUTDATED


class _Notices:
    """Takes the place of psycopg2's list of notices, and keeps none of them: their texts may hold values."""

    def __init__(self) -> None:
        self.is_not_replicated = False

    def append(self, notice: str) -> None:
        """Called by psycopg2 for each notice of the server."""
        self.is_not_replicated = self.is_not_replicated or WAIT_FOR_STANDBY in notice


class _Connection(aiopg.Connection):
    """aiopg's connection, driven from here, at whatever socket libpq uses by then, for as long as the caller waits.

    aiopg itself watches the first socket only, though libpq changes it while connecting; makes a CancelledError of a
    statement that the server ended; and tells nobody of a connection that broke if the socket's number is over 1023.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(None, timeout=math.inf, enable_hstore=False, enable_uuid=False, **options)
        self.generation = 0  # the pool's
        self._prepared: set[str] = set()
        self._notices = _Notices()
        # aiopg's cursors are cycles, and hold a statement's text: one each time would be garbage of 100 kB.
        self._only_cursor: aiopg.Cursor | None = None
        self._unwatch()

    async def _poll(self, waiter: asyncio.Future[None], timeout: float) -> None:  # noqa: ASYNC109 - aiopg's signature
        try:
            while (state := self._conn.poll()) != extensions.POLL_OK:
                await self._socket_ready(writing=state == extensions.POLL_WRITE)
        except asyncio.CancelledError:
            # What the server still does on this connection is unknown: never hand it to anybody else.
            self.close()
            raise
        finally:
            self._waiter = None

    async def _socket_ready(self, *, writing: bool) -> None:
        fileno = self._conn.fileno()
        self._fileno, self._writing = fileno, writing
        self._waiter = ready = self._loop.create_future()
        watch = self._loop.add_writer if writing else self._loop.add_reader
        watch(fileno, lambda: None if ready.done() else ready.set_result(None))
        try:
            await ready
        finally:
            self._unwatch()

    def _unwatch(self) -> None:
        if self._fileno is not None:
            self._loop.remove_reader(self._fileno)
            self._loop.remove_writer(self._fileno)
            self._fileno = None

    def _close(self) -> None:
        # Before the descriptor is closed: its number may be another connection's a moment later.
        self._unwatch()
        super()._close()

    async def begin(self, session: Params) -> None:
        """What a new connection needs before its first statement."""
        self.raw.notices = self._notices
        _set_error_verbosity(self.raw.pgconn_ptr, PQERRORS_VERBOSE)
        await self.run(SESSION, session, None)

    async def run(self, sql: str, params: Params, prepare: str | None) -> list[Row]:
        """Runs a statement, and before the first that needs it what prepares it.

        Raises:
            DatabaseDown: it is committed on this server and perhaps not on the synchronous standby.
        """
        cursor = self._only_cursor = self._only_cursor or await self.cursor()
        if prepare is not None and prepare not in self._prepared:
            await cursor.execute(prepare)
            self._prepared.add(prepare)
        self._notices.is_not_replicated = False
        await cursor.execute(sql, params)
        self.raw.poll()  # psycopg2 hands out notices at its next reading, and what came with the reply has been read
        if self._notices.is_not_replicated:
            raise DatabaseDown(NOT_REPLICATED)
        return list(await cursor.fetchall()) if cursor.description else []

    def is_alive(self) -> bool:
        """Whether the socket is still open: a closed one reads as end of file without waiting."""
        try:
            # The first may read no more than the server's goodbye; then the second meets the end of file.
            self.raw.poll()
            self.raw.poll()
        except psycopg2.Error:
            return False
        return not self.closed

    def is_idle(self) -> bool:
        """Whether nothing of the last statement is left on it."""
        return not self.closed and self.raw.get_transaction_status() == extensions.TRANSACTION_STATUS_IDLE


class _Connector:
    """Opens connections to the servers of a URL, and logs which of them fail."""

    def __init__(self, url: str, application_name: str, statement_timeout_s: float, noted: dict[Server, str]) -> None:
        self._url = url
        self._application_name = application_name
        self._session = {
            "timeout_ms": str(int(statement_timeout_s * 1000)),
            "lock_timeout_ms": str(int(statement_timeout_s * 1000 * LOCK_SHARE)),
        }
        self._servers: Servers | None = None
        self._failures = noted

    async def connect(self, connect_by: float) -> _Connection:
        """Tries one server after the other; each may take an equal share of the time left. Raises DatabaseDown."""
        servers = self._servers = self._servers or self._read_url()
        waiting = deque(servers.in_order())
        kind = ""
        while waiting and kind not in FINAL_KINDS:
            server = waiting.popleft()
            share_s = (connect_by - asyncio.get_running_loop().time()) / (1 + len(waiting))
            try:
                async with asyncio.timeout(share_s):
                    if server.has_name:
                        waiting.extendleft(reversed(servers.good_first(await server.addresses())))
                        continue
                    connection = await self._open({**servers.options, **server.options})
            except (OSError, psycopg2.Error) as error:
                kind = classify(error)
                self._note_failure(server, str(error).strip() or kind)
            else:
                servers.reached(server)
                self._note_success(server)
                return connection
        raise DatabaseDown(kind)

    def _read_url(self) -> Servers:
        try:
            return Servers(self._url)
        except ValueError:
            raise DatabaseDown("invalid DATABASE_URL") from None

    async def _open(self, options: dict[str, str]) -> _Connection:
        connection = _Connection({**options, "application_name": self._application_name})
        try:
            await connection
            await connection.begin(self._session)
        except BaseException:
            connection.close()
            raise
        return connection

    def _note_failure(self, server: Server, reason: str) -> None:
        """Logs the driver's own words, once until they change: no statement and no password is in them."""
        if self._failures.get(server) != reason:
            self._failures[server] = reason
            log.info("[DB] No connection", host=server.host, address=server.address, port=server.port, reason=reason)

    def _note_success(self, server: Server) -> None:
        if self._failures.pop(server, None):
            log.info("[DB] Server answers again", host=server.host, address=server.address, port=server.port)


class Database:
    """A pool of connections to one PostgreSQL, which may be several servers, opened on first use.

    `fetch` ends within `deadline_s`, whatever happens: `connect_timeout_s` for a free connection and for opening one
    if need be, then `statement_timeout_s` and CLIENT_GRACE_S for the statement and what prepares it.

    Args:
        url: a libpq URL; several hosts and target_session_attrs mean what they mean to libpq.
        pool_size: connections at most.
        statement_timeout_s: the server ends a statement after this.
        connect_timeout_s: for a free connection and for a new one, together; several hosts share it.
        application_name: shown in pg_stat_activity.
        noted: servers and why they failed, as it stands in the log; for pools that shall not say the same again.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int,
        statement_timeout_s: float,
        connect_timeout_s: float,
        application_name: str,
        noted: dict[Server, str] | None = None,
    ) -> None:
        self._connector = _Connector(url, application_name, statement_timeout_s, {} if noted is None else noted)
        self._pool_size = pool_size
        self._statement_timeout_s = statement_timeout_s
        self._connect_timeout_s = connect_timeout_s
        # A pool of our own: in aiopg's, a connection that breaks wakes nobody who waits for it, and one that is slow
        # to open holds up all others. Idle connections are taken from the end: those used lately are most likely alive.
        self._free = asyncio.Semaphore(pool_size)
        self._idle: list[_Connection] = []
        self._used: set[_Connection] = set()
        self._generation = 0  # connections of an earlier one are closed, not kept
        self._closed = False

    @property
    def deadline_s(self) -> float:
        """What one fetch takes at most."""
        return self._connect_timeout_s + self._statement_timeout_s + CLIENT_GRACE_S

    async def fetch(self, sql: str, params: Params = (), *, prepare: str | None = None) -> list[Row]:
        """Runs one statement in its own transaction and returns its rows (none if it has none to return).

        Args:
            prepare: what `sql` needs on its connection, such as a PREPARE; it is run once on each.

        Raises:
            DatabaseDown: it could not be reached or did not answer in time.
            Refused: the statement, or a value in it, is wrong.
        """
        retry_by = asyncio.get_running_loop().time() + self.deadline_s
        with contextlib.suppress(_PreparedLost):
            return await self._run(sql, params, prepare)
        try:
            async with asyncio.timeout_at(retry_by):
                return await self._run(sql, params, prepare)
        except TimeoutError:
            raise DatabaseDown("timeout") from None
        except _PreparedLost:
            raise DatabaseDown(PREPARATION_LOST) from None

    async def _run(self, sql: str, params: Params, prepare: str | None) -> list[Row]:
        """One attempt. Raises _PreparedLost, DatabaseDown or Refused."""
        connection = await self._acquire()
        try:
            async with asyncio.timeout(self._statement_timeout_s + CLIENT_GRACE_S):
                return await connection.run(sql, params, prepare)
        except (OSError, psycopg2.Error) as error:
            # Not chained: PostgreSQL's own text can repeat a value.
            raise self._judge(error, connection, prepared=prepare is not None) from None
        finally:
            self._release(connection)

    def _judge(self, error: Exception, connection: _Connection, *, prepared: bool) -> Exception:
        """What a statement's failure means for the caller, for its connection, and for the others."""
        if connection.closed:
            self._drop()
            return DatabaseDown(classify(error))
        if prepared and _lost_its_preparation(error):
            self._drop()
            return _PreparedLost()
        if getattr(error, "pgcode", None) in SERVER_CHANGED:
            self._drop()
        return judge(error)

    async def _acquire(self) -> _Connection:
        connect_by = asyncio.get_running_loop().time() + self._connect_timeout_s
        try:
            async with asyncio.timeout_at(connect_by):
                await self._free.acquire()
        except TimeoutError:
            raise DatabaseDown("pool exhausted") from None
        try:
            connection = self._take_idle() or await self._connect(connect_by)
        except BaseException:
            self._free.release()
            raise
        self._used.add(connection)
        return connection

    def _take_idle(self) -> _Connection | None:
        if self._closed:
            raise DatabaseDown("closed")
        if self._idle and not self._idle[-1].is_alive():
            # A restart of the server leaves dead sockets behind: all of them are suspect.
            self._drop()
        return self._idle.pop() if self._idle else None

    def _release(self, connection: _Connection) -> None:
        self._used.discard(connection)
        if connection.generation == self._generation and connection.is_idle():
            self._idle.append(connection)
        else:
            connection.close()
        self._free.release()

    def _drop(self) -> None:
        """Closes idle connections now, and those in use when they come back."""
        self._generation += 1
        while self._idle:
            self._idle.pop().close()

    async def _connect(self, connect_by: float) -> _Connection:
        generation = self._generation
        connection = await self._connector.connect(connect_by)
        connection.generation = generation
        return connection

    def stats(self) -> dict[str, int]:
        """Connections by state: used, idle, max."""
        return {"used": len(self._used), "idle": len(self._idle), "max": self._pool_size}

    async def close(self) -> None:
        """Closes every connection, those in use too. The object can't be used afterwards."""
        self._closed = True
        self._drop()
        for connection in tuple(self._used):
            connection.close()

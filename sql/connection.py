"""Connections to PostgreSQL: aiopg's, driven from here so that every wait has a limit, and what opens them."""

import asyncio
import ctypes
import logging
import math
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import aiopg
import psycopg2
import structlog
from psycopg2 import _psycopg, extensions

from sql.errors import FINAL_KINDS, NOT_REPLICATED, DatabaseUnavailable, classify
from sql.schemas import SET_SEARCH_PATH
from sql.servers import Server, Servers

# Over the standard library's logger: a command that has not configured any logging prints none of this.
log = structlog.wrap_logger(logging.getLogger(__name__))

Row = tuple[Any, ...]
Params = Mapping[str, object] | Sequence[object]

# The share of a statement's time that it may wait for a lock: the server's error then names the lock, and not only the
# time limit.
LOCK_SHARE = 0.8

# Run once on each connection. The third setting makes the server check, during a statement, whether its client is
# still connected: the statement of a killed process ends within a second, not at the time limit. The two after it are
# for what is acknowledged after a commit: the commit waits at least for the disk, and for that of the synchronous
# standby if there is one, and the warning that this wait was cancelled is sent to the client. The isolation lets a
# statement after a lock see what was committed before it (lock_ledger.sql), whatever the role's default is. A prepared
# statement is planned once; only Citus needs its values to plan it, and refuses the forced plan (0A000).
SESSION = f"""
SELECT set_config('statement_timeout', %(timeout_ms)s, false),
       set_config('lock_timeout', %(lock_timeout_ms)s, false),
       set_config('client_connection_check_interval', '1s', false),
       set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'remote_apply'
                                        THEN 'remote_apply' ELSE 'on' END, false),
       set_config('client_min_messages', 'warning', false),
       set_config('default_transaction_isolation', 'read committed', false),
       set_config('plan_cache_mode', CASE WHEN EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')
                                     THEN 'auto' ELSE 'force_generic_plan' END, false),
       {SET_SEARCH_PATH},
       pg_postmaster_start_time()
"""  # noqa: S608 - a constant of this module
# The function of PostgreSQL that waits for a synchronous standby. Its warning has no SQLSTATE of its own, and its text
# may be translated; libpq adds the function's name at its highest verbosity.
WAIT_FOR_STANDBY = "SyncRepWaitForLSN"
PQERRORS_VERBOSE = 2
# psycopg2 has no function for it. It is found in the libraries of its module, of which libpq is one.
_set_error_verbosity = ctypes.CDLL(_psycopg.__file__).PQsetErrorVerbosity
_set_error_verbosity.argtypes = (ctypes.c_void_p, ctypes.c_int)


class _Notices:
    """Replaces psycopg2's list of notices, and keeps none of them: their texts may contain values."""

    def __init__(self) -> None:
        self.is_not_replicated = False

    def append(self, notice: str) -> None:
        """Called by psycopg2 for each notice of the server."""
        self.is_not_replicated = self.is_not_replicated or WAIT_FOR_STANDBY in notice


class Connection(aiopg.Connection):
    """aiopg's connection, driven from here at the socket that libpq uses at the time, for as long as the caller waits.

    aiopg itself watches only the first socket, although libpq changes it while connecting; it raises CancelledError for
    a statement that the server ended; and it does not notice a connection that broke if its socket's number is over
    1023.

    Attributes:
        server: when the server was started: no two servers have the same.
    """

    server: datetime

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(None, timeout=math.inf, enable_hstore=False, enable_uuid=False, **options)
        self.generation = 0  # the pool's
        self._prepared: set[str] = set()
        self._notices = _Notices()
        # aiopg's cursors are reference cycles that contain a statement's text: a new one each time would leave 100 kB.
        self._only_cursor: aiopg.Cursor | None = None
        self._unwatch()

    async def _poll(self, waiter: asyncio.Future[None], timeout: float) -> None:  # noqa: ASYNC109 - aiopg's signature
        try:
            while (state := self._conn.poll()) != extensions.POLL_OK:
                await self._socket_ready(writing=state == extensions.POLL_WRITE)
        except asyncio.CancelledError:
            # What the server still does on this connection is unknown: it must not be used again.
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
        [(*_, self.server)] = await self.run(SESSION, session, None)

    async def run(self, sql: str, params: Params, prepare: str | None) -> list[Row]:
        """Runs a statement, after `prepare` if that has not yet been run on this connection.

        Raises:
            DatabaseUnavailable: it is committed on this server and perhaps not on the synchronous standby.
        """
        cursor = self._only_cursor = self._only_cursor or await self.cursor()
        if prepare is not None and prepare not in self._prepared:
            await cursor.execute(prepare)
            self._prepared.add(prepare)
        self._notices.is_not_replicated = False
        await cursor.execute(sql, params)
        self.raw.poll()  # psycopg2 delivers notices with its next read, and those of the reply have been received
        if self._notices.is_not_replicated:
            raise DatabaseUnavailable(NOT_REPLICATED)
        return list(await cursor.fetchall()) if cursor.description else []

    async def wait_readable(self) -> None:
        """Returns when the server has sent something while no statement runs, or has closed the connection."""
        try:
            await self._socket_ready(writing=False)
        finally:
            self._waiter = None

    def is_alive(self) -> bool:
        """Whether the socket is still open: a closed one reads as end of file without waiting."""
        try:
            # The first may only read the server's last message; then the second reads the end of file.
            self.raw.poll()
            self.raw.poll()
        except psycopg2.Error:
            return False
        return not self.closed

    def is_idle(self) -> bool:
        """Whether the last statement has ended."""
        return not self.closed and self.raw.get_transaction_status() == extensions.TRANSACTION_STATUS_IDLE


class Connector:
    """Opens connections to the servers of a URL, and logs which of them fail."""

    def __init__(
        self, url: str, schema: str, application_name: str, statement_timeout_s: float, noted: dict[Server, str]
    ) -> None:
        self._url = url
        self._application_name = application_name
        self._session = {
            "timeout_ms": str(int(statement_timeout_s * 1000)),
            "lock_timeout_ms": str(int(statement_timeout_s * 1000 * LOCK_SHARE)),
            "schema": schema,
        }
        self._servers: Servers | None = None
        self._failures = noted

    async def connect(self, connect_by: float) -> Connection:
        """Tries one server after the other, each for an equal share of the time left. Raises DatabaseUnavailable."""
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
        raise DatabaseUnavailable(kind)

    def _read_url(self) -> Servers:
        try:
            return Servers(self._url)
        except ValueError:
            raise DatabaseUnavailable("invalid DATABASE_URL") from None

    async def _open(self, options: dict[str, str]) -> Connection:
        connection = Connection({**options, "application_name": self._application_name})
        try:
            await connection
            await connection.begin(self._session)
        except BaseException:
            connection.close()
            raise
        return connection

    def _note_failure(self, server: Server, reason: str) -> None:
        """Logs the driver's own text, once until it changes: it contains no statement and no password."""
        if self._failures.get(server) != reason:
            self._failures[server] = reason
            log.info("[DB] No connection", host=server.host, address=server.address, port=server.port, reason=reason)

    def _note_success(self, server: Server) -> None:
        if self._failures.pop(server, None):
            log.info("[DB] Server answers again", host=server.host, address=server.address, port=server.port)

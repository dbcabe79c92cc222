"""aiohttp's server with limits of its own: how many connections, how long each may keep the process waiting, and how
much memory requests and replies take.

Of too many connections the one that has kept the process waiting longest is closed; where they take too much memory,
those that take most. Bytes count when they arrive, not when they are announced: a client that announces much and sends
little keeps no other client out.
"""

import asyncio
import gc
import os
import socket
import stat
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from operator import attrgetter
from typing import Any, Self, cast

from aiohttp import hdrs, web

from daemon.runtime.http.connection import Connection, begin_request
from daemon.runtime.http.errors import SERVER, BodyTimeout, NoMemory
from daemon.runtime.http.health_routes import is_health_check
from daemon.runtime.http.limits import ACCEPTS, Limits, Turns

HEADER_LINE_BYTES = 8 * 1024  # of the request's line and of each header: what other servers take
HEADERS = 100  # likewise
READ_BYTES = 16 * 1024  # aiohttp stops reading when twice as much of a body waits for its reader
RECEIVE_BYTES = 32 * 1024  # the kernel holds of one connection, and so can arrive in one turn of the loop
BACKLOG = 4096  # new connections that wait for the next turn of the loop
TURN_REPLIES = 16  # in one turn, of those that cost no work
REJECTED_TO = 3 / 4  # of the memory: enough at a time, because finding the largest costs time
GARBAGE_SHARE = 1 / 4  # of the memory: connections that have ended, in reference cycles of asyncio and aiohttp
CLOSED_BYTES = 4 * 1024  # of such a cycle, besides what the connection received
SWEEP_S = 0.25  # times are kept as exactly as this
DRAIN_S = 1.0  # a connection that is still open after this time has no request to send
DRAIN_POLL_S = 0.02
STDIN = 0

# What aiohttp's own connection takes beyond the application.
AIOHTTP = {
    "access_log": None,
    "lingering_time": 0,  # finish_response does it
    "read_bufsize": READ_BYTES,
    "max_line_size": HEADER_LINE_BYTES,
    "max_field_size": HEADER_LINE_BYTES,
    "max_headers": HEADERS,
    "auto_decompress": False,  # a signature is one of the bytes as they came
}
EXCESS, UNSENT = attrgetter("excess"), attrgetter("unsent")


async def _name_server(_request: web.Request, response: web.StreamResponse) -> None:
    """For every reply of a handler, also one that is sent in parts. `rejection` replies where there is no handler."""
    response.headers[hdrs.SERVER] = SERVER


class HttpServer:
    """The connections of one process, and what they take together. Within its block the application is open.

    Args:
        runner: of the application that the connections serve.
        on_closed: is called with the limit that was reached when a connection is closed for the sake of others.
        on_bad_request: is called for each request that is HTTP and cannot be parsed.
    """

    def __init__(
        self,
        runner: web.AppRunner,
        limits: Limits,
        *,
        on_closed: Callable[[str], None] = lambda _limit: None,
        on_bad_request: Callable[[], None] = lambda: None,
    ) -> None:
        self._runner = runner
        self._limits = limits
        self._on_closed = on_closed
        self.bad_request = on_bad_request
        self._loop = asyncio.get_running_loop()
        self._servers: list[asyncio.Server] = []
        self._connections = OrderedDict[Connection, None]()  # the one that has waited longest is the first
        self._received = 0
        self._garbage = 0
        self._turns = {kind: Turns(TURN_REPLIES) for kind in ("calm health check", "health check", "rejection")}
        self._times_s = {
            "head": limits.head_s,
            "body": limits.body_s,
            "reply": limits.reply_s,
            "request": limits.idle_s,
        }

    async def __aenter__(self) -> Self:
        """Start the application; `listen` opens its port."""
        self._runner.app.on_response_prepare.append(_name_server)
        self._runner.app.middlewares.append(begin_request)
        await self._runner.setup()
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Stop listening, and end what is left of connections and requests."""
        for server in self._servers:
            server.close()
        await self._runner.cleanup()

    # --- Start and drain ---

    @property
    def addresses(self) -> list[Any]:
        """Where it listens."""
        return [each.getsockname() for server in self._servers for each in server.sockets]

    async def listen(self, **where: Any) -> None:
        """Accept connections at a `host` and `port`, or of an inherited `sock`. Raises OSError."""
        connection = partial(Connection, self, cast(web.Server, self._runner.server), loop=self._loop, **AIOHTTP)
        server = await self._loop.create_server(connection, **where, backlog=ACCEPTS)
        self._servers.append(server)
        for each in server.sockets:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
            with each.dup() as listener:
                listener.listen(BACKLOG)

    async def drain(self, *, keep_accepting: bool) -> None:
        """Return once every connection has been answered and closed, or DRAIN_S has passed.

        Args:
            keep_accepting: without it, clients that connect meanwhile wait for another process of the same socket.
        """
        if not keep_accepting:
            for each in (each for server in self._servers for each in server.sockets):
                self._loop.remove_reader(each.fileno())
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                while self._connections:  # noqa: ASYNC110 - connections end in many ways
                    await asyncio.sleep(DRAIN_POLL_S)

    # --- Time and memory ---

    async def sweep(self) -> None:
        """Regularly close what takes too long, for ever."""
        while True:
            await asyncio.sleep(SWEEP_S)
            now_s = self._loop.time()
            for connection in list(self._connections):
                waits_for = connection.waits_for
                if waits_for and now_s - connection.since_s >= self._times_s[waits_for]:
                    connection.reject(BodyTimeout())
            self._bound_replies()
            if self._garbage > self._limits.memory_bytes * GARBAGE_SHARE:
                self._garbage = 0
                gc.collect()

    def _bound_replies(self) -> None:
        unsent = sorted((connection for connection in self._connections if connection.unsent), key=UNSENT)
        total = sum(map(UNSENT, unsent))
        while total > self._limits.memory_bytes:
            total -= unsent[-1].unsent
            unsent.pop().abort()
            self._on_closed("replies that are not read")

    # --- Called by the connections ---

    def opened(self) -> None:
        """A connection was made. If there are too many, the one that has waited longest is closed."""
        if len(self._connections) > self._limits.connections:
            next(connection for connection in self._connections if connection.waits_for).abort()
            self._on_closed("too many connections")

    def closed(self, connection: Connection) -> None:
        """A connection takes nothing any more."""
        if connection in self._connections:
            del self._connections[connection]
            self._garbage += connection.received + CLOSED_BYTES
        self.received(-connection.received)
        connection.received = 0

    def waits(self, connection: Connection) -> float:
        """A connection waits for something else, from the time that is returned."""
        self._connections[connection] = None
        self._connections.move_to_end(connection)
        return self._loop.time()

    def received(self, size: int) -> None:
        """So many bytes more are in memory. If these are too many, the requests that take most are rejected."""
        self._received += size
        if size > 0 and self._received > self._limits.memory_bytes:
            candidates = sorted((c for c in self._connections if c.excess), key=EXCESS)
            while candidates and self._received > self._limits.memory_bytes * REJECTED_TO:
                candidates.pop().reject(NoMemory())
                self._on_closed("too much memory")

    async def take_turn(self, request: web.BaseRequest, reply: web.StreamResponse, *, is_calm: bool) -> None:
        """Return when a reply may be sent. Those that cost no work wait for each other, and delay nothing else."""
        if is_health_check(request):
            await self._turns["calm health check" if is_calm else "health check"].take()
        elif reply.status >= HTTPStatus.BAD_REQUEST:
            await self._turns["rejection"].take()


def inherited_socket() -> socket.socket | None:
    """supervisord's listening socket (`[fcgi-program:api]`), or None if there is none."""
    if not stat.S_ISSOCK(os.fstat(STDIN).st_mode):
        return None
    inherited = socket.socket(fileno=os.dup(STDIN))
    if not inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        inherited.close()
        return None
    return inherited

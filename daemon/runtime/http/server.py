"""aiohttp's server with limits of its own: on the number of connections, on the time for which the process waits for
each, and on the memory of requests and replies.

If there are too many connections, the one is closed for which the process has waited longest; if they take too much
memory, those that take most. Bytes are counted when they arrive and not when Content-Length announces them, so a client
that announces much and sends little takes nothing from others.
"""

import asyncio
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
from daemon.runtime.http.garbage import Garbage
from daemon.runtime.http.health_routes import is_health_check
from daemon.runtime.http.limits import Limits, Turns
from daemon.runtime.http.short_path import FindHandler, ShortPath

HEADER_LINE_BYTES = 8 * 1024  # of the request line and of each header, as many as nginx and Apache accept
HEADERS = 100  # as many as Apache accepts
READ_BYTES = 16 * 1024  # aiohttp stops receiving a body when twice as many bytes of it are not read yet
RECEIVE_BYTES = 32 * 1024  # the kernel's buffer of one connection: no more arrive in one iteration of the event loop
BACKLOG = 4096  # new connections that the kernel keeps until the next iteration of the event loop
TURN_REPLIES = 16  # in one iteration of the event loop, of the replies that need no work
TURN_REQUESTS = 128  # which begin in one iteration of the event loop
TURN_BODIES = 4  # of which a further part is received in one iteration of the event loop
REJECTED_TO = 3 / 4  # requests are rejected until so much memory is used, so that the next search is not due at once
GARBAGE_SHARE = 1 / 4  # of the memory may be ended connections that reference cycles keep
ENDED_BYTES = 4 * 1024  # of an ended connection, besides the bytes that it received
SWEEP_S = 0.25  # a time limit is exceeded by at most so much
NEVER_S = 10 * 365 * 24 * 3600
DRAIN_S = 1.0  # a connection that is still open after this time has no request to send
DRAIN_POLL_S = 0.02
STDIN = 0

# The options of aiohttp's parser, and of its part of a connection.
PARSER: dict[str, Any] = {
    "max_line_size": HEADER_LINE_BYTES,
    "max_field_size": HEADER_LINE_BYTES,
    "max_headers": HEADERS,
    "auto_decompress": False,  # a webhook is signed as it was sent
}
AIOHTTP: dict[str, Any] = {
    **PARSER,
    "access_log": None,
    "lingering_time": 0,  # finish_response does it
    "keepalive_timeout": NEVER_S,  # sweep does it, and knows of the requests on the short path
    "read_bufsize": READ_BYTES,
}
EXCESS, UNSENT = attrgetter("excess"), attrgetter("unsent")


async def _name_server(_request: web.Request, response: web.StreamResponse) -> None:
    """For every reply of a handler, also one that is sent in parts. `rejection` replies where there is no handler."""
    response.headers[hdrs.SERVER] = SERVER


class HttpServer:
    """The HTTP server of one process: all its connections, and the memory that they take together.

    It is an async context manager; the application runs inside the block.

    Args:
        runner: of the application that the connections serve.
        on_closed: is called with the limit that was reached, when a connection is closed so that others can be served.
        on_bad_request: is called for each request that is HTTP and cannot be parsed.
        short_path: finds what answers a request line on the short path.
    """

    def __init__(
        self,
        runner: web.AppRunner,
        limits: Limits,
        *,
        on_closed: Callable[[str], None] = lambda _limit: None,
        on_bad_request: Callable[[], None] = lambda: None,
        short_path: FindHandler = lambda _line: None,
    ) -> None:
        self._runner = runner
        self._limits = limits
        self._on_closed = on_closed
        self.bad_request = on_bad_request
        self._loop = asyncio.get_running_loop()
        self.short_path = ShortPath(short_path, PARSER)
        self._servers: list[asyncio.Server] = []
        self._connections = OrderedDict[Connection, None]()  # first the one for which the process has waited longest
        self._unanswered_bytes = 0
        self.garbage = Garbage(limits.memory_bytes * GARBAGE_SHARE)
        self._turns = {
            kind: Turns(TURN_REPLIES) for kind in ("health check after a pause", "health check", "rejection")
        }
        self.request_turns, self.body_turns = Turns(TURN_REQUESTS), Turns(TURN_BODIES)
        self._times_s = {
            "head": limits.head_s,
            "body": limits.body_s,
            "reply": limits.reply_s,
            "request": limits.idle_s,
        }

    async def __aenter__(self) -> Self:
        """Start the application; `listen` opens its port."""
        self._runner.app.on_response_prepare.append(_name_server)
        self._runner.app.middlewares.insert(0, begin_request)
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
        """The addresses at which it listens."""
        return [each.getsockname() for server in self._servers for each in server.sockets]

    async def listen(self, **where: Any) -> None:
        """Accept connections at a `host` and `port`, or of an inherited `sock`. Raises OSError."""
        connection = partial(Connection, self, cast(web.Server, self._runner.server), loop=self._loop, **AIOHTTP)
        server = await self._loop.create_server(connection, **where, backlog=self._limits.accepts)
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
        """Check all connections regularly; reject those for which the process has waited too long. Never returns."""
        while True:
            await asyncio.sleep(SWEEP_S)
            self._reject_late()  # a function of its own: variables of this one would keep a connection while it sleeps
            self._bound_replies()
            self.garbage.collect()

    def _reject_late(self) -> None:
        now_s = self._loop.time()
        for connection in list(self._connections):
            waits_for = connection.waits_for
            if waits_for and now_s - connection.since_s >= self._times_s[waits_for]:
                connection.reject(BodyTimeout())

    def _bound_replies(self) -> None:
        unsent = sorted((connection for connection in self._connections if connection.unsent), key=UNSENT)
        total = sum(map(UNSENT, unsent))
        while total > self._limits.memory_bytes:
            total -= unsent[-1].unsent
            unsent.pop().abort()
            self._on_closed("replies that are not read")

    # --- Called by the connections ---

    def connection_opened(self) -> None:
        """A client has connected. If there are too many connections, one for which the process waits is closed."""
        if len(self._connections) > self._limits.connections:
            next(connection for connection in self._connections if connection.waits_for).abort()
            self._on_closed("too many connections")

    def connection_closed(self, connection: Connection) -> None:
        """A connection has ended and uses no memory any more."""
        if connection in self._connections:
            del self._connections[connection]
            connection.ended_bytes = connection.unanswered_bytes + ENDED_BYTES
            self.garbage.connection_ended(connection.ended_bytes)
        self.count_bytes(-connection.unanswered_bytes)
        connection.unanswered_bytes = 0

    def connection_waits(self, connection: Connection) -> float:
        """The process begins to wait for something else from this connection. Returns the time."""
        self._connections[connection] = None
        self._connections.move_to_end(connection)
        return self._loop.time()

    def count_bytes(self, size: int) -> None:
        """Add `size` to the bytes in memory. If these are too many, the requests that take most are rejected."""
        self._unanswered_bytes += size
        if size > 0 and self._unanswered_bytes > self._limits.memory_bytes:
            candidates = sorted((c for c in self._connections if c.excess), key=EXCESS)
            while candidates and self._unanswered_bytes > self._limits.memory_bytes * REJECTED_TO:
                candidates.pop().reject(NoMemory())
                self._on_closed("too much memory")

    async def take_turn(self, request: web.BaseRequest, reply: web.StreamResponse, *, after_pause: bool) -> None:
        """Return when a reply may be sent. Replies that need no work wait for each other, and delay nothing else."""
        if is_health_check(request):
            await self._turns["health check after a pause" if after_pause else "health check"].take()
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

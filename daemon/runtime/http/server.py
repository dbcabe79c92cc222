"""aiohttp's server with limits of its own: how many connections, how long each may keep the process waiting, and how
much memory requests and replies take.

Where there are too many connections, the one that keeps the process waiting longest is ended; where they take too much
memory, those that take most. Bytes count when they arrive, not when they are announced: a client that announces much
and sends little keeps no other out.
"""

import asyncio
import gc
import socket
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from functools import partial
from http import HTTPStatus
from operator import attrgetter
from typing import Any, cast

from aiohttp import StreamReader, hdrs, web
from aiohttp.typedefs import Handler

from daemon.runtime.http.errors import SERVER, SLOW_HEAD, BodyTimeout, NoMemory, refusal
from daemon.runtime.http.health_routes import is_health_check
from daemon.runtime.http.limits import ACCEPTS, Limits, Turns

HEADER_LINE_BYTES = 8 * 1024  # of the request's line and of each header: what other servers take
HEADERS = 100  # likewise
HEAD_BYTES = 16 * 1024  # more than heads have: beyond, besides a body, a client sends further requests ahead
READ_BYTES = 16 * 1024  # aiohttp stops reading when twice as much of a body waits for its reader
RECEIVE_BYTES = 32 * 1024  # the kernel holds of one connection, and so can arrive in one turn of the loop
SEND_BYTES = 16 * 1024  # of a reply may wait for its client before the process waits too
BACKLOG = 4096  # new connections that wait for the next turn of the loop
TURN_REPLIES = 16  # in one turn, of those that cost no work
REFUSED_TO = 3 / 4  # of the memory: enough at a time, because finding the largest costs time
GARBAGE_SHARE = 1 / 4  # of the memory: connections that have ended, in reference cycles of asyncio and aiohttp
CLOSED_BYTES = 4 * 1024  # of such a cycle, besides what the connection received
CALM_S = 0.25  # between a reply and the next request: a monitor's pause, and not a flood's
SWEEP_S = 0.25  # times are kept as exactly as this
LINGER_S = 0.5  # a client may still be sending when it is refused: closed at once it would not see the reply

Notify = Callable[[str], None]


class Connection(web.RequestHandler):
    """One connection: what the process waits for since when, and the memory that it takes.

    The process waits for a "head", a "body", for a "reply" to be read, for the next "request"; for "" while it works.
    """

    __slots__ = ("_body", "_is_calm", "_pausing", "_refused", "_server", "_tcp", "_waits_for", "received", "since_s")

    def __init__(self, server: "HttpServer", manager: web.Server, **options: Any) -> None:
        super().__init__(manager, **options)
        self._server = server
        self._tcp: asyncio.Transport | None = None
        self._body: StreamReader | None = None  # of the request in hand
        self._is_calm = True  # it does not ask without a pause
        self._pausing: asyncio.Task[Any] | None = None  # what waits with a reply, or after it
        self._refused = False  # what the client still sends is dropped
        self.received = 0  # bytes that are not answered yet

    @property
    def waits_for(self) -> str:
        """What the process waits for."""
        if self._waits_for == "body" and self._body is not None and self._body.is_eof():
            return ""
        return "reply" if self._waits_for == "request" and self.unsent else self._waits_for

    @property
    def unsent(self) -> int:
        """Bytes of replies that the client does not read."""
        return self._tcp.get_write_buffer_size() if self._tcp else 0

    @property
    def excess(self) -> int:
        """Bytes that `refuse` gives back: of an incomplete body, or of what is sent besides a head and its body."""
        if self.waits_for == "body":
            return self.received
        more = self.received - (self._body.total_bytes if self._body else 0)
        return more if more > HEAD_BYTES else 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        super().connection_made(transport)
        self._tcp = cast(asyncio.Transport, transport)
        self._tcp.set_write_buffer_limits(SEND_BYTES)
        self._wait_for("head")
        self._server.opened()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection has ended; work for its request goes on."""
        self._tcp = None
        self._server.closed(self)
        super().connection_lost(exc)
        if self._pausing:
            self._pausing.cancel()

    def data_received(self, data: bytes) -> None:
        """Counts what arrives before aiohttp takes it."""
        if data and not self._refused:
            if self._waits_for == "request":
                answered_s = self.since_s
                self._wait_for("head")
                self._is_calm = self.since_s - answered_s >= CALM_S
            self.received += len(data)
            self._server.received(len(data))
            if self.waits_for in ("", "reply") and self.excess:
                self._stop_reading()  # the reply to the request in hand is the last one
        if not self._refused:
            super().data_received(data)

    def begin(self, request: web.Request) -> None:
        """A request's head is complete."""
        self._body = request.content
        self._wait_for("body")

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Sends a reply. What aiohttp refuses itself, such as an unknown `Expect`, is refused in our words."""
        reply = refusal(resp.status) if isinstance(resp, Exception) else resp  # not HTTPException: an ABC is slow
        self._drop(request.content)
        self._body = None
        if not request.content.is_eof():
            self._refused = True
        if self._refused:
            reply.force_close()
        self._wait_for("reply")
        await self._while_open(self._server.take_turn(request, reply, is_calm=self._is_calm))
        sent = await super().finish_response(request, reply, start_time)
        if self._refused:
            await self._while_open(asyncio.sleep(LINGER_S))
        self._wait_for("request")
        return sent

    async def _while_open(self, wait: Coroutine[Any, Any, None]) -> None:
        """Waits, unless the client leaves: then nothing more is done for it."""
        if self._tcp is None:
            wait.close()
            raise ConnectionResetError("the client has left")
        self._pausing = asyncio.current_task()
        await wait
        self._pausing = None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is no HTTP, and what nothing else has caught. The reply repeats nothing of what the client sent."""
        if isinstance(exc, UnicodeEncodeError) and hdrs.EXPECT in request.headers:
            # aiohttp's own refusal repeats the header, and can't where that was no UTF-8.
            return refusal(HTTPStatus.EXPECTATION_FAILED)
        super().handle_error(request, status, exc, message)  # writes the log
        return refusal(status)

    def refuse(self, error: TimeoutError) -> None:
        """Takes no more of the request. What reads its body gets the error, and replies."""
        if self.waits_for == "body" and self._body is not None:
            self._drop(self._body)
            self._body.set_exception(error)
            self._body.feed_eof()
            self._stop_reading()
        elif self.waits_for == "head" and self.received and self._tcp and isinstance(error, BodyTimeout):
            self._tcp.write(SLOW_HEAD)
            self._tcp.close()
        else:
            self.abort()

    def _stop_reading(self) -> None:
        """Takes nothing more from the client, which costs least."""
        self._refused = True
        if self._tcp:
            self._tcp.pause_reading()

    def abort(self) -> None:
        """Closes the connection at once."""
        self._refused = True
        if self._tcp:
            self._tcp.abort()
        self._server.closed(self)

    def _drop(self, body: StreamReader) -> None:
        """Forgets what has arrived of a request."""
        more = self.received - body.total_bytes
        left = more if more > HEAD_BYTES else 0
        self._server.received(left - self.received)
        self.received = left
        error = body.exception()
        if error is not None:
            error.__traceback__ = None  # its frames keep the request in memory, and the request keeps the error
            return
        with suppress(RuntimeError):  # raised while the body is being read: then nothing of it is left here
            body.read_nowait()

    def _wait_for(self, what: str) -> None:
        self._waits_for = what
        if self._tcp:
            self.since_s = self._server.moved(self)


EXCESS, UNSENT = attrgetter("excess"), attrgetter("unsent")


@web.middleware
async def _begin(request: web.Request, handler: Handler) -> web.StreamResponse:
    cast(Connection, request.protocol).begin(request)
    return await handler(request)


async def _name_server(_request: web.Request, response: web.StreamResponse) -> None:
    """For every reply of a handler, also one that is sent in parts. `refusal` replies where there is no handler."""
    response.headers[hdrs.SERVER] = SERVER


@asynccontextmanager
async def opened(
    runner: web.AppRunner, limits: Limits, ended: Notify = lambda _reason: None
) -> AsyncIterator["HttpServer"]:
    """A server for an application; both are closed at the end. Arguments as for HttpServer."""
    runner.app.on_response_prepare.append(_name_server)
    runner.app.middlewares.append(_begin)
    await runner.setup()
    assert runner.server is not None  # noqa: S101 - for the type checker
    server = HttpServer(runner.server, limits, ended)
    try:
        yield server
    finally:
        server.close()
        await runner.cleanup()


class HttpServer:
    """The connections of one process, and what they take together.

    Args:
        manager: what calls the handlers, as an AppRunner makes it.
        ended: called with the reason when a connection is ended for the sake of others.
    """

    def __init__(self, manager: web.Server, limits: Limits, ended: Notify) -> None:
        self._limits = limits
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._servers: list[asyncio.Server] = []
        self._connections = OrderedDict[Connection, None]()  # the one that has waited longest is the first
        self._received = 0
        self._garbage = 0
        self._turns = {kind: Turns(TURN_REPLIES) for kind in ("calm health check", "health check", "refusal")}
        self._times_s = {
            "head": limits.head_s,
            "body": limits.body_s,
            "reply": limits.reply_s,
            "request": limits.idle_s,
        }
        self._connection = partial(
            Connection,
            self,
            manager,
            loop=self._loop,
            access_log=None,
            lingering_time=0,  # finish_response does it
            read_bufsize=READ_BYTES,
            max_line_size=HEADER_LINE_BYTES,
            max_field_size=HEADER_LINE_BYTES,
            max_headers=HEADERS,
            auto_decompress=False,  # a signature is one of the bytes as they came
        )

    @property
    def open(self) -> int:
        """How many connections there are."""
        return len(self._connections)

    @property
    def addresses(self) -> list[Any]:
        """Where it listens."""
        return [each.getsockname() for server in self._servers for each in server.sockets]

    async def listen(self, **where: Any) -> None:
        """Accepts connections at a `host` and `port`, or of an inherited `sock`. Raises OSError."""
        server = await self._loop.create_server(self._connection, **where, backlog=ACCEPTS)
        self._servers.append(server)
        for each in server.sockets:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
            with each.dup() as listener:
                listener.listen(BACKLOG)

    def stop_accepting(self) -> None:
        """New connections wait for another process of the same socket."""
        for server in self._servers:
            for each in server.sockets:
                self._loop.remove_reader(each.fileno())

    def close(self) -> None:
        """Stops listening."""
        for server in self._servers:
            server.close()

    async def watch(self) -> None:
        """Ends what takes too long, for ever."""
        while True:
            await asyncio.sleep(SWEEP_S)
            now_s = self._loop.time()
            for connection in list(self._connections):
                waits_for = connection.waits_for
                if waits_for and now_s - connection.since_s >= self._times_s[waits_for]:
                    connection.refuse(BodyTimeout())
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
            self._ended("replies that nobody reads")

    def opened(self) -> None:
        """A connection was made. Where there are too many, the one that has waited longest ends."""
        if len(self._connections) > self._limits.connections:
            next(connection for connection in self._connections if connection.waits_for).abort()
            self._ended("too many connections")

    def closed(self, connection: Connection) -> None:
        """It takes nothing any more."""
        if connection in self._connections:
            del self._connections[connection]
            self._garbage += connection.received + CLOSED_BYTES
        self.received(-connection.received)
        connection.received = 0

    def moved(self, connection: Connection) -> float:
        """It waits for something else, from the moment returned."""
        self._connections[connection] = None
        self._connections.move_to_end(connection)
        return self._loop.time()

    def received(self, size: int) -> None:
        """So many bytes more are in memory. Where they are too many, the requests that take most are refused."""
        self._received += size
        if size > 0 and self._received > self._limits.memory_bytes:
            candidates = sorted((c for c in self._connections if c.excess), key=EXCESS)
            while candidates and self._received > self._limits.memory_bytes * REFUSED_TO:
                candidates.pop().refuse(NoMemory())
                self._ended("too much memory")

    async def take_turn(self, request: web.BaseRequest, reply: web.StreamResponse, *, is_calm: bool) -> None:
        """Returns when a reply may be sent. Those that cost no work wait for each other, and hold up nothing else."""
        if is_health_check(request):
            await self._turns["calm health check" if is_calm else "health check"].take()
        elif reply.status >= HTTPStatus.BAD_REQUEST:
            await self._turns["refusal"].take()

"""One HTTP connection: aiohttp's, with the time and the memory that it takes.

The server (`server.HttpServer`) decides by these figures which connection is closed for the sake of the others.
"""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from aiohttp import StreamReader, hdrs, web
from aiohttp.http_exceptions import BadHttpMethod, HttpProcessingError
from aiohttp.typedefs import Handler

from daemon.runtime.http.errors import SLOW_HEAD, BodyTimeout, rejection
from daemon.runtime.http.garbage import free_from_itself
from daemon.runtime.http.health_routes import begins_health_check
from daemon.runtime.http.short_path import HEAD_END, PreparedReply, ShortRequest

if TYPE_CHECKING:
    from daemon.runtime.http.server import HttpServer

HEAD_BYTES = 16 * 1024  # more than any head has: more bytes than this, besides a body, are further requests
SEND_BYTES = 16 * 1024  # of a reply that the client has not read yet: the handler waits when there are more
PAUSE_S = 0.25  # between a reply and the next request: a monitor waits for longer, a client that floods does not
LINGER_S = 0.5  # a client may still be sending when it is rejected: after an immediate close it would not see the reply
LINGER_POLL_S = 0.1
TCP_ESTABLISHED = 1


class Connection(web.RequestHandler):
    """One connection: what the process waits for and since when, and the memory that it takes.

    The process waits for a "head", a "body", for a "reply" to be read, for the next "request"; for "" while it works.
    """

    __slots__ = (
        "_body",
        "_body_bytes",
        "_closes",
        "_delayed",
        "_head_bytes",
        "_is_clean",
        "_is_paused",
        "_later",
        "_rejected",
        "_resume",
        "_server",
        "_short",
        "_tcp",
        "_waits_for",
        "after_pause",
        "ended_bytes",
        "since_s",
        "unanswered_bytes",
    )

    def __init__(self, server: "HttpServer", manager: web.Server, **options: Any) -> None:
        super().__init__(manager, **options)
        self._server = server
        self._tcp: asyncio.Transport | None = None
        self._body: StreamReader | None = None  # of the current request, once its head is complete
        self._body_bytes: int | None = None  # that its head announces; None if it is sent in chunks
        self.after_pause = True  # the client waited for PAUSE_S before this request
        self._delayed: asyncio.Task[Any] | None = None  # the task that waits before or after a reply is sent
        self._rejected = False  # what the client still sends is dropped
        self._is_paused = False  # aiohttp reads nothing until the handler has read what has arrived of the body
        self._resume: Callable[[], None] | None = None  # what continues to read, and may wait for its turn
        self._is_clean = True  # aiohttp has parsed nothing that it has not answered: a request can take the short path
        self._head_bytes = 0  # of aiohttp's request, if its head arrived in one piece on a clean connection
        self._short: ShortRequest | None = None  # the request on the short path
        self._later = b""  # received, and kept until its turn, or until the current request has begun or is answered
        self._closes = False  # the connection, after the reply to the current request
        self.unanswered_bytes = 0  # received, of requests that have no reply yet
        self.ended_bytes = 0  # of memory, which are free when nothing refers to this object any more

    def __del__(self) -> None:
        """Tell the server that the memory is free."""
        self._server.garbage.connection_freed(self.ended_bytes)

    @property
    def waits_for(self) -> str:
        """What the process waits for."""
        if self._waits_for == "body" and self._body is not None and self._body.is_eof():
            return ""
        return "reply" if self._waits_for == "request" and self.unsent else self._waits_for

    @property
    def unsent(self) -> int:
        """Bytes of replies that the client has not read."""
        return self._tcp.get_write_buffer_size() if self._tcp else 0

    @property
    def excess(self) -> int:
        """Bytes that `reject` frees: of an incomplete body, or of what was sent besides one head and its body."""
        if self._short:
            return len(self._later)
        return self.unanswered_bytes if self.waits_for == "body" else self._ahead(self._body)

    def _ahead(self, body: StreamReader | None) -> int:
        """Bytes of further requests; 0 where they may still be part of this request's head."""
        more = self.unanswered_bytes - (body.total_bytes if body else 0)
        return more if more > HEAD_BYTES else 0

    # --- Called by asyncio and aiohttp ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        super().connection_made(transport)
        self._tcp = cast(asyncio.Transport, transport)
        self._tcp.set_write_buffer_limits(SEND_BYTES)
        self._wait_for("head")
        self._server.connection_opened()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection has ended; its handler continues, so that an event is recorded all the same."""
        if self._tcp:
            asyncio.get_running_loop().call_soon(free_from_itself, self._tcp)  # once asyncio needs it no more
        self._tcp = None
        if self._body is not None and not self._body.is_eof():
            self._drop(self._body)
        self._ignore_rest()
        self._server.connection_closed(self)
        super().connection_lost(exc)
        if self._delayed:
            self._delayed.cancel()

    def data_received(self, data: bytes) -> None:
        """Count the bytes that arrive, then pass them on: those of a new request in turn, but for a health check."""
        if self._rejected:
            return
        if data:
            if self._waits_for == "request":
                answered_s = self.since_s
                self._wait_for("head")
                self.after_pause = self.since_s - answered_s >= PAUSE_S
            self.unanswered_bytes += len(data)
            self._server.count_bytes(len(data))
            if self._short or self._later:
                self._keep_for_later(data)
                return
            if self.waits_for in ("", "reply") and self.excess:
                self._stop_reading()  # the reply to the current request is the last one
            if self._is_clean and not begins_health_check(data):
                self._later = data
                self._server.request_turns.call(self._begin_request)
                return
        self._receive(data)

    def _begin_request(self) -> None:
        """Begin with a request in turn: a thousand of them that arrive at the same time delay nothing else."""
        data, self._later = self._later, b""
        if data and self._tcp:
            self._tcp.resume_reading()
            self._receive(data)

    def _receive(self, data: bytes) -> None:
        if self._rejected:
            return
        if self._is_clean and data:
            if self._take_short_path(data):
                return
            self._is_clean = False
            head_end = data.find(HEAD_END)
            self._head_bytes = head_end + len(HEAD_END) if head_end > 0 else 0
            if 0 < self._head_bytes < len(data) - HEAD_BYTES:
                self._keep_for_later(data[self._head_bytes :])  # until the size of the body is known
                data = data[: self._head_bytes]
        elif self._body is not None:
            data = self._of_request(data, self._body)
        super().data_received(data)

    def _of_request(self, data: bytes, body: StreamReader) -> bytes:
        """The part of the data that belongs to the current request.

        aiohttp does not free further requests that it has received when the connection ends.
        """
        missing = len(data) if self._body_bytes is None else self._body_bytes - body.total_bytes
        if len(data) > missing:
            self._keep_for_later(data[missing:])
        return data[:missing]

    def _keep_for_later(self, data: bytes) -> None:
        self._later += data
        if len(self._later) > HEAD_BYTES and (self._short or self._body is not None):
            self._closes = True  # the reply to the current request is the last one
            self._stop_reading()
        elif self._tcp:
            self._tcp.pause_reading()

    def _continue(self) -> None:
        """After a reply, continue with what the client has sent meanwhile."""
        later, self._later = self._later, b""
        self._server.count_bytes(len(later) - self.unanswered_bytes)
        self.unanswered_bytes = len(later)
        self._wait_for("head" if later else "request")
        if later and self._tcp:
            self._tcp.resume_reading()
            self._receive(later)

    # --- The short path ---

    def _take_short_path(self, data: bytes) -> bool:
        found = self._server.short_path.find(self, data) if not self.unsent else None
        if found is None:
            return False
        self._short, handle = found
        self._waits_for = ""
        if handle(self._short):
            return True
        self._short = None
        self._waits_for = "head"
        return False

    def answer(self, reply: PreparedReply, *, close: bool) -> None:
        """Send the reply to the request on the short path, then continue with what the client has sent meanwhile."""
        self._short = None
        if self._tcp is None:
            return
        close = close or self._closes
        self._tcp.write(reply.encode(close=close))
        if close:
            self._ignore_rest()
            self._tcp.close()
        self._continue()

    def close(self) -> None:
        """Close the connection once its request is answered. aiohttp waits for that at the end of the server."""
        if self._short or (self._is_clean and self._later):
            self._closes = True
        else:
            super().close()

    # --- Called by aiohttp ---

    def pause_reading(self) -> None:
        """Receive nothing until the handler has read what has arrived of the body."""
        self._is_paused = True
        super().pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Continue to receive the body, in turn: however many large bodies are sent, they delay nothing else."""
        if self._is_paused:
            self._is_paused = False
            self._resume = partial(self._resume_reading, resume_parser)
            self._server.body_turns.call(self._resume)

    def _resume_reading(self, resume_parser: bool) -> None:
        self._resume = None
        super().resume_reading(resume_parser)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send a reply. What aiohttp rejects itself, such as an unknown `Expect`, gets our own reply.

        Returns the reply, and whether the client has left. An error instead would be part of a reference cycle.
        """
        reply = rejection(resp.status) if isinstance(resp, Exception) else resp  # not HTTPException: an ABC is slow
        was_alone = 0 < self._head_bytes == self.unanswered_bytes - request.content.total_bytes - len(self._later)
        self._head_bytes = 0
        self._drop(request.content)
        self._body = None
        if not request.content.is_eof():
            self._ignore_rest()
        if self._rejected and self._tcp and has_left(self._tcp):
            self.abort()
            return reply, True
        if self._tcp is None:
            return reply, True
        if self._rejected:
            reply.force_close()
        self._wait_for("reply")
        await self._while_open(self._server.take_turn(request, reply, after_pause=self.after_pause))
        sent = await super().finish_response(request, reply, start_time)
        if self._rejected and self._tcp:
            await self._while_open(self._linger(self._tcp))
        self._is_clean = was_alone and bool(reply.keep_alive) and not self.unanswered_bytes
        self._wait_for("request")
        if self._later and reply.keep_alive:
            asyncio.get_running_loop().call_soon(self._continue)
        return sent

    async def _linger(self, tcp: asyncio.Transport) -> None:
        """Return when the client has left, or LINGER_S has passed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while not has_left(tcp):  # noqa: ASYNC110 - no event reports it while nothing is read
                    await asyncio.sleep(LINGER_POLL_S)

    async def _while_open(self, wait: Coroutine[Any, Any, None]) -> None:
        """Wait. If the client leaves meanwhile, the task of its request is cancelled."""
        self._delayed = asyncio.current_task()
        await wait
        self._delayed = None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Reply to what is not HTTP, and to errors that nothing else has caught, without repeating anything of them."""
        if isinstance(exc, HttpProcessingError):
            if not isinstance(exc, BadHttpMethod):  # what scanners and TLS handshakes send is not counted
                self._server.bad_request()
        elif isinstance(exc, UnicodeEncodeError) and hdrs.EXPECT in request.headers:
            # aiohttp's own reply repeats the header, which fails where that was not UTF-8.
            return rejection(HTTPStatus.EXPECTATION_FAILED)
        else:
            super().handle_error(request, status, exc, message)  # writes the log
        return rejection(status)

    def log_exception(self, *args: Any, **options: Any) -> None:
        """Do not log what a client has caused: the trace would contain its address, and the client gets a reply."""
        if not isinstance(options.get("exc_info"), HttpProcessingError | web.RequestPayloadError):
            super().log_exception(*args, **options)

    # --- Called by the server ---

    def begin(self, request: web.Request) -> None:
        """A request's head is complete."""
        self._body = request.content
        self._body_bytes = None if hdrs.TRANSFER_ENCODING in request.headers else request.content_length or 0
        self._wait_for("body")
        later, self._later = self._later, b""
        if later:
            self._receive(later)
            if not self._later and not self._is_paused and self._tcp:
                self._tcp.resume_reading()

    def reject(self, error: TimeoutError) -> None:
        """Read no more of the request. The handler that reads its body gets the error, and replies."""
        if self.waits_for == "body" and self._body is not None:
            self._drop(self._body)
            self._body.set_exception(error)
            self._body.feed_eof()
            self._stop_reading()
        elif self.waits_for == "head" and self.unanswered_bytes and self._tcp and isinstance(error, BodyTimeout):
            self._tcp.write(SLOW_HEAD)
            self._tcp.close()
        else:
            self.abort()

    def abort(self) -> None:
        """Close the connection at once."""
        self._ignore_rest()
        if self._tcp:
            self._tcp.abort()
        self._server.connection_closed(self)

    def _ignore_rest(self) -> None:
        """Drop what the client still sends."""
        self._rejected = True
        self._later = b""
        if self._resume:
            self._server.body_turns.cancel(self._resume)
            self._resume = None

    def _stop_reading(self) -> None:
        """Read nothing more from the client: no other way to ignore its data costs less."""
        self._ignore_rest()
        if self._tcp:
            self._tcp.pause_reading()

    def _drop(self, body: StreamReader) -> None:
        """Free the memory of what has arrived of a request."""
        left = self._ahead(body)
        self._server.count_bytes(left - self.unanswered_bytes)
        self.unanswered_bytes = left
        error = body.exception()
        if error is not None:
            error.__traceback__ = None  # its frames keep the request in memory, and the request keeps the error
            return
        with suppress(RuntimeError):  # raised while the body is being read: then nothing of it is left here
            body.read_nowait()

    def _wait_for(self, what: str) -> None:
        self._waits_for = what
        if self._tcp:
            self.since_s = self._server.connection_waits(self)


def has_left(tcp: asyncio.Transport) -> bool:
    """Whether the client has closed the connection, which asyncio does not notice while it reads nothing: tcp(7)."""
    state: bytes = tcp.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    return state[0] != TCP_ESTABLISHED


@web.middleware
async def begin_request(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The outermost middleware of every application: from here on the request's head is complete."""
    cast(Connection, request.protocol).begin(request)
    try:
        return await handler(request)
    finally:
        if request.match_info.http_exception is not None:
            free_from_itself(request.match_info.route)  # aiohttp makes one for each such request

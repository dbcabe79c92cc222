"""Who may be connected, and for how long: the bounds that aiohttp's server leaves open.

A new connection waits on the porch, as a bare socket, until its request's head is whole: thousands that say nothing, or
say it slowly, cost next to nothing and take nobody's place. Then it is let in while there is room. Where there is none
it stands in line for a moment, which a burst of deliveries needs, and is answered 503 when none has come; health checks
have places of their own. Once inside, whoever keeps us waiting longest makes room for others, and nobody may keep us
waiting for ever. One look at all connections now and then sees to that: a request pays nothing for it.
"""

import asyncio
import json
import math
import os
import re
import resource
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Any

from aiohttp import hdrs, web

from health_sidecar.config import ConfigError

# Answered in places of their own. A few monitors and a load balancer, each with a connection or two.
HEALTH = re.compile(rb"(GET|HEAD) /health[/? ]")
HEALTH_PLACES = 16
# Connections whose head is not whole yet. A good one stays for a round trip; the oldest goes when another comes.
PORCH_PLACES = 768
HEAD_BYTES = 8 * 1024  # a whole head of Stripe's has 1 kB; of more than this the server is to say what it thinks
LINE_BYTES = 8 * 1024  # of the request's line and of each header: what other servers take
HEADERS = 100  # likewise
BACKLOG = 4096  # whoever comes while one turn of the loop lasts; the kernel lets others try again after a second
DEFER_S = 1  # the kernel keeps to itself for so long who has not said anything
ACCEPTS = 128  # at a turn of the loop, so that a flood of connections can't starve those inside
ACCEPT_PAUSE_S = 0.1  # when the kernel has no more to give
LOOK_S = 0.25  # the times below are kept as exactly as this
# After a refusal the client may still be sending: a socket closed at once would reset the reply away.
LINGER_S = 1.0
# A place is free in milliseconds unless we are overloaded. Then whoever comes again as soon as it is refused is kept
# away by the waiting from those who are served.
LINE_S = 1.0
LINE_PLACES = 4096  # where the system allows so many open files; beyond, the refusal comes at once
LEAVING_PLACES = 256  # beyond, the oldest goes without having been heard out
LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,9})(?:\r\n|$)", re.IGNORECASE)
OTHER_DESCRIPTORS = 64  # database, readiness socket, log, metrics, libraries

RETRY_AFTER_S = 30
SERVER = "donationd"  # aiohttp would name its own version and Python's, for attackers to look up

Head = bytes
Notify = Callable[[Head], None]


@dataclass(frozen=True)
class Limits:
    """How many connections one process serves, and how long each may keep it waiting.

    Args:
        connections: served at once, besides HEALTH_PLACES.
        head_s: until a first request's head is whole.
        body_s: until a request's body is whole.
        reply_s: until a reply is read.
        idle_s: between requests.
    """

    connections: int
    head_s: float
    body_s: float
    reply_s: float
    idle_s: float


class BodyTimeout(TimeoutError):
    """A request's body was not whole in time."""


def reserve_descriptors(connections: int) -> None:
    """Raises the process's soft limit of file descriptors to what the connections and a line of LINE_PLACES need, or as
    far as the system allows. Raises ConfigError where that is not enough for the connections.
    """
    least = _served_descriptors(connections)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return
    allowed = math.inf if hard == resource.RLIM_INFINITY else hard
    if allowed < least:
        raise ConfigError(
            [
                f"{connections} connections need {least} open files, and {hard} are allowed: raise the hard limit "
                "(ulimit -Hn, LimitNOFILE in systemd)"
            ]
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, int(min(least + LINE_PLACES, allowed))), hard))


def _served_descriptors(connections: int) -> int:
    """How many file descriptors a process needs whose line is empty."""
    return connections + 2 * HEALTH_PLACES + PORCH_PLACES + LEAVING_PLACES + OTHER_DESCRIPTORS


def _line_places(connections: int) -> int:
    """How many may stand in line, by the process's limit of file descriptors."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return LINE_PLACES
    return max(0, min(LINE_PLACES, soft - _served_descriptors(connections)))


async def bind(host: str, port: int) -> list[socket.socket]:
    """Sockets bound to each of the host's addresses, not listening yet. Raises OSError."""
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, host, port, start_serving=False)
    try:
        return [socket.socket(fileno=os.dup(each.fileno())) for each in server.sockets]
    finally:
        server.close()


def _reply(status: HTTPStatus, body: object, *headers: str) -> bytes:
    text = json.dumps(body)
    lines = [
        f"HTTP/1.1 {status} {status.phrase}",
        "Content-Type: application/json; charset=utf-8",
        f"Content-Length: {len(text)}",
        "Connection: close",
        *headers,
    ]
    return "\r\n".join([*lines, "", text]).encode()


def _error(status: HTTPStatus) -> dict[str, object]:
    return {"success": False, "error": status.phrase, "message": status.description}


BUSY = _reply(
    HTTPStatus.SERVICE_UNAVAILABLE,
    {
        "error": "Service Unavailable",
        "message": "More requests are being served than can be",
        "retryAfter": RETRY_AFTER_S,
    },
    f"Retry-After: {RETRY_AFTER_S}",
)
TOO_SLOW = _reply(HTTPStatus.REQUEST_TIMEOUT, _error(HTTPStatus.REQUEST_TIMEOUT))


class Connection(web.RequestHandler):
    """A connection that was let in, with what it has said so far. Its errors repeat nothing of what it said."""

    __slots__ = ("_gone", "_head", "_made")

    def __init__(
        self, server: web.Server, gone: Callable[[], None], head: Head, made: Callable[[], None], **options: Any
    ) -> None:
        super().__init__(server, **options)
        self._head = head
        self._made = made  # the server counts it from now on
        self._gone = gone  # and no more

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins with the head."""
        super().connection_made(transport)
        self._made()
        head, self._head = self._head, b""
        self.data_received(head)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Leaves its place to another, when the work for it is done."""
        working = self._task_handler
        super().connection_lost(exc)
        if working is None:
            self._gone()
        else:
            working.add_done_callback(lambda _working: self._gone())

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is no HTTP, and what nobody else has caught."""
        if isinstance(exc, UnicodeEncodeError) and hdrs.EXPECT in request.headers:
            # aiohttp's own refusal repeats the header, and can't where that was no UTF-8.
            return _refusal(HTTPStatus.EXPECTATION_FAILED)
        super().handle_error(request, status, exc, message)  # writes the log
        return _refusal(status)

    def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> Coroutine[Any, Any, tuple[web.StreamResponse, bool]]:
        """What aiohttp refuses before any handler of ours, such as an unknown `Expect`, is refused in our words."""
        reply = _refusal(resp.status) if isinstance(resp, Exception) else resp  # not HTTPException: an ABC is slow
        return super().finish_response(request, reply, start_time)


def _is_whole(request: bytes) -> bool:
    """Whether all of a request's body has come with its head; False where that is not sure."""
    head, _, body = request.partition(b"\r\n\r\n")
    length = LENGTH.search(head)
    return length is not None and len(body) >= int(length[1])


def _refusal(status: int) -> web.Response:
    response = web.json_response(_error(HTTPStatus(status)), status=status, headers={hdrs.SERVER: SERVER})
    response.force_close()
    return response


async def _name_server(_request: web.Request, response: web.StreamResponse) -> None:
    """For every reply of a handler, also one that is sent in parts. `_refusal` replies where there is no handler."""
    response.headers[hdrs.SERVER] = SERVER


@dataclass(frozen=True)
class _Wait:
    """What a connection keeps us waiting for: its next "request", the rest of a "body", or to read a "reply"."""

    what: str
    request: int  # its number in the connection; 0 where a client could go on for ever with ever new ones


def _wait(connection: web.RequestHandler) -> _Wait | None:
    """What we wait for. None while it waits for us, or has gone."""
    if connection.transport is None:
        return None
    request = connection._current_request
    if request is not None:
        return None if request.content.is_eof() else _Wait("body", connection._request_count)
    if connection.transport.get_write_buffer_size():
        return _Wait("reply", 0)
    return None if connection._request_in_progress else _Wait("request", connection._request_count)


@dataclass
class _Guest:
    since_s: float
    head: bytearray = field(default_factory=bytearray)

    @property
    def is_clear(self) -> bool:
        """Whether more of it would change nothing: the head is whole, or is none."""
        return b"\r\n\r\n" in self.head or len(self.head) >= HEAD_BYTES or not self.head[:1].isalpha()

    @property
    def asks_for_health(self) -> bool:
        """Whether one of the places for health checks may be its."""
        return HEALTH.match(self.head) is not None


@asynccontextmanager
async def opened(runner: web.AppRunner, limits: Limits, refused: Notify = lambda _head: None) -> AsyncIterator["Door"]:
    """A door before an application; both are closed at the end. Arguments as for Door."""
    runner.app.on_response_prepare.append(_name_server)
    await runner.setup()
    assert runner.server is not None  # noqa: S101 - for the type checker
    door = Door(runner.server, limits, refused)
    try:
        yield door
    finally:
        door.close()
        await runner.cleanup()


class Door:
    """Lets connections in, and sees to it that they don't stay too long.

    Args:
        server: what serves them, as an AppRunner makes it.
        refused: called with the head of each request that found no room.
    """

    def __init__(self, server: web.Server, limits: Limits, refused: Notify) -> None:
        self._server = server
        self._limits = limits
        self._refused = refused
        self._loop = asyncio.get_running_loop()
        self._listeners: list[socket.socket] = []
        self._is_open = True
        # In the order of their coming.
        self._porch: dict[socket.socket, _Guest] = {}
        self._lines: tuple[dict[socket.socket, _Guest], ...] = ({}, {})  # health checks' is the first
        self._line_places = (HEALTH_PLACES, _line_places(limits.connections))
        self._leaving: dict[socket.socket, float] = {}
        self._entering: dict[socket.socket, asyncio.Task[None]] = {}
        self._waits: dict[web.RequestHandler, tuple[_Wait, float]] = {}
        self._may_go: list[web.RequestHandler] = []  # at the last look; who kept us waiting longest is the last
        self._ended = set[web.RequestHandler]()  # by us, for another's sake; the server forgets them in a moment
        self._new_connection = partial(
            Connection,
            server,
            self._call_in,
            loop=self._loop,
            access_log=None,
            lingering_time=LOOK_S,  # it holds a place
            max_line_size=LINE_BYTES,
            max_field_size=LINE_BYTES,
            max_headers=HEADERS,
            auto_decompress=False,  # a signature is one of the bytes as they came
        )

    @property
    def open(self) -> int:
        """Connections that are or may still be served."""
        return len(self._porch) + sum(map(len, self._lines)) + len(self._entering) + len(self._server.connections)

    def listen(self, listener: socket.socket) -> None:
        """Opens; `listener` is bound, or listens already. Raises OSError."""
        listener.setblocking(False)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, DEFER_S)
        listener.listen(BACKLOG)
        self._listeners.append(listener)
        self._loop.add_reader(listener, self._accept, listener)

    def stop_listening(self) -> None:
        """Who comes now waits for another process of the same socket."""
        self._is_open = False
        for listener in self._listeners:
            self._loop.remove_reader(listener)

    @property
    def addresses(self) -> list[Any]:
        """Where it is open."""
        return [listener.getsockname() for listener in self._listeners]

    def close(self) -> None:
        """Closes what is not served yet; what is served is the server's."""
        self.stop_listening()
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        self._turn_away_since(math.inf)
        for client in [*self._porch, *self._leaving]:
            self._drop(client)

    async def watch(self) -> None:
        """Ends what takes too long, for ever."""
        while True:
            await asyncio.sleep(LOOK_S)
            self._look(self._loop.time())

    def _accept(self, listener: socket.socket) -> None:
        now_s = self._loop.time()
        for _ in range(ACCEPTS):
            try:
                client, _address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                self._loop.remove_reader(listener)
                self._loop.call_later(ACCEPT_PAUSE_S, self._resume, listener)
                return
            client.setblocking(False)
            if len(self._porch) >= PORCH_PLACES:
                self._drop(next(iter(self._porch)))
            self._porch[client] = _Guest(now_s)
            self._hear(client)
            if client in self._porch:
                self._loop.add_reader(client, self._hear, client)

    def _resume(self, listener: socket.socket) -> None:
        if self._is_open:
            self._loop.add_reader(listener, self._accept, listener)

    def _hear(self, client: socket.socket) -> None:
        """On the porch somebody says something, or leaves."""
        guest = self._porch[client]
        said = self._said(client)
        guest.head += said
        if said and guest.is_clear:
            self._loop.remove_reader(client)
            del self._porch[client]
            self._admit(client, guest)

    def _said(self, client: socket.socket) -> bytes:
        """What a client says, if anything just now; one that has left is dropped."""
        try:
            said = client.recv(HEAD_BYTES)
        except (BlockingIOError, InterruptedError):
            return b""
        except OSError:
            said = b""
        if not said:
            self._drop(client)
        return said

    def _admit(self, client: socket.socket, guest: _Guest) -> None:
        if self._has_room(guest):
            self._let_in(client, guest)
            return
        number = not guest.asks_for_health
        if len(self._lines[number]) < self._line_places[number]:
            self._lines[number][client] = _Guest(self._loop.time(), guest.head)
        else:
            self._turn_away(client, guest)

    def _has_room(self, guest: _Guest) -> bool:
        places = self._limits.connections + (HEALTH_PLACES if guest.asks_for_health else 0)
        while self._taken() >= places:
            if not self._make_room():
                return False
        return True

    def _let_in(self, client: socket.socket, guest: _Guest) -> None:
        self._entering[client] = self._loop.create_task(self._enter(client, bytes(guest.head)))

    def _call_in(self) -> None:
        """Whoever stands in line longest takes a place that is free."""
        for line in self._lines:
            while line and self._has_room(next(iter(line.values()))):
                client = next(iter(line))
                self._let_in(client, line.pop(client))

    def _turn_away_since(self, since_s: float) -> None:
        """Refuses whoever stands in line since then or before."""
        for line in self._lines:
            for client in [client for client, guest in line.items() if guest.since_s <= since_s]:
                self._turn_away(client, line.pop(client))

    def _turn_away(self, client: socket.socket, guest: _Guest) -> None:
        head = bytes(guest.head)
        self._refused(head)
        self._refuse(client, BUSY, is_whole=_is_whole(head))

    def _taken(self) -> int:
        """Places taken. Work for a client that has left takes its own to the end."""
        connections = self._server.connections
        if self._ended:
            self._ended.intersection_update(connections)
        return len(connections) - len(self._ended) + len(self._entering)

    async def _enter(self, client: socket.socket, head: Head) -> None:
        def made() -> None:
            self._entering.pop(client, None)

        with suppress(OSError):  # it has left meanwhile
            await self._loop.connect_accepted_socket(partial(self._new_connection, head, made), client)
        made()

    def _make_room(self) -> bool:
        """Closes the connection that has kept us waiting longest. False if each has something of ours in hand."""
        while self._may_go:
            connection = self._may_go.pop()
            wait, _since_s = self._waits[connection]
            if _wait(connection) == wait:
                _end(connection)
                self._ended.add(connection)
                return True
        return False

    def _refuse(self, client: socket.socket, reply: bytes, *, is_whole: bool = False) -> None:
        """Answers; then hears the client out for a while, unless its request `is_whole`, so that it can read it."""
        try:
            client.send(reply)
            if is_whole:
                client.close()
                return
            client.shutdown(socket.SHUT_WR)
        except OSError:
            client.close()
            return
        if len(self._leaving) >= LEAVING_PLACES:
            self._drop(next(iter(self._leaving)))
        self._leaving[client] = self._loop.time()
        self._loop.add_reader(client, self._said, client)

    def _drop(self, client: socket.socket) -> None:
        self._loop.remove_reader(client)
        self._porch.pop(client, None)
        self._leaving.pop(client, None)
        client.close()

    def _look(self, now_s: float) -> None:
        for client in [c for c, guest in self._porch.items() if now_s - guest.since_s >= self._limits.head_s]:
            self._give_up(client)
        for client in [c for c, since_s in self._leaving.items() if now_s - since_s >= LINGER_S]:
            self._drop(client)
        self._waits = dict(self._looked_at(now_s))
        # Since the last look at least: a client between two requests is not idle.
        idle = [connection for connection, (_, since_s) in self._waits.items() if since_s < now_s]
        self._may_go = sorted(idle, key=lambda connection: self._waits[connection][1], reverse=True)
        self._call_in()
        self._turn_away_since(now_s - LINE_S)

    def _give_up(self, client: socket.socket) -> None:
        """Somebody has stood on the porch for too long; who never said a word gets none."""
        if not self._porch[client].head:
            self._drop(client)
            return
        self._loop.remove_reader(client)
        del self._porch[client]
        self._refuse(client, TOO_SLOW)

    def _looked_at(self, now_s: float) -> list[tuple[web.RequestHandler, tuple[_Wait, float]]]:
        """Each connection that keeps us waiting, for what and since when; those that did for too long are ended."""
        limits = {"body": self._limits.body_s, "reply": self._limits.reply_s, "request": self._limits.idle_s}
        waits = []
        for connection in self._server.connections:
            wait = _wait(connection)
            if wait is None:
                continue
            before, since_s = self._waits.get(connection, (wait, now_s))
            since_s = since_s if before == wait else now_s
            if now_s - since_s < limits[wait.what]:
                waits.append((connection, (wait, since_s)))
            elif wait.what == "body" and (request := connection._current_request):
                request.content.set_exception(BodyTimeout())  # to whoever reads it
            else:
                _end(connection)
        return waits


def _end(connection: web.RequestHandler) -> None:
    if connection.transport:
        connection.transport.abort()

"""Limits on what one process accepts and does at the same time: connections, memory, requests of one kind (Places),
requests that begin, replies and parts of bodies in one iteration of the event loop (Turns), the size of a body.
"""

import asyncio
import resource
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from aiohttp import web

from daemon.runtime.config import ConfigError
from daemon.runtime.http.errors import Busy

# New connections in one iteration of the event loop. A process that has its socket alone accepts many, so that few wait
# behind those of a flood, and no iteration becomes long; processes that share a socket accept few, so that they share
# the connections that are opened at the same time.
ACCEPTS_ALONE = 256
ACCEPTS_SHARED = 8
OTHER_DESCRIPTORS = 64  # database, readiness socket, log, metrics, libraries
DEADLINE = web.RequestKey("deadline", asyncio.Timeout)  # of the request; a reply that is sent in parts extends it
QUEUE_WAIT_S = 1.0  # unless the process is overloaded, a place becomes free within milliseconds


@dataclass(frozen=True)
class Limits:
    """How many connections one process has, and how much memory and time they may use.

    Args:
        connections: open at the same time.
        memory_bytes: of requests that are not answered yet, and as many of replies that are not read yet.
        head_s: until a request's head is complete.
        body_s: until its body is complete.
        reply_s: until its reply is read.
        idle_s: until the connection's next request.
        accepts: new connections in one iteration of the event loop.
    """

    connections: int
    memory_bytes: int
    head_s: float
    body_s: float
    reply_s: float
    idle_s: float
    accepts: int = ACCEPTS_ALONE


def reserve_descriptors(connections: int) -> None:
    """Increase the process's soft limit of open files to what so many connections need.

    Raises ConfigError if the hard limit is lower.
    """
    needed = connections + ACCEPTS_ALONE + OTHER_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ConfigError(
            [
                f"{connections} connections need {needed} open files, but {hard} are allowed: increase the hard limit "
                "(ulimit -Hn, LimitNOFILE in systemd)"
            ]
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


class Places:
    """At most `count` requests of one kind are worked on at the same time: each has a place.

    The others wait in their order, at most for QUEUE_WAIT_S; then they are rejected with Busy. They are not rejected at
    once, because most clients would try again at once.
    """

    def __init__(self, kind: str, count: int) -> None:
        self._kind = kind
        self._free = count
        self._waiting = deque[tuple[float, asyncio.Future[None]]]()  # with the time at which each is rejected
        self._rejection: asyncio.TimerHandle | None = None  # one timer for all that wait

    def take(self) -> asyncio.Future[None] | None:
        """Take a place, and call `release` in the end. Returns None if a place was free.

        Otherwise the future is done when the caller has a place. It fails with Busy if there is none in time.
        """
        if self._free:
            self._free -= 1
            return None
        loop = asyncio.get_running_loop()
        place: asyncio.Future[None] = loop.create_future()
        self._waiting.append((loop.time() + QUEUE_WAIT_S, place))
        if self._rejection is None:
            self._rejection = loop.call_later(QUEUE_WAIT_S, self._reject)
        return place

    @property
    def is_full(self) -> bool:
        """Whether one more request has to wait."""
        return not self._free

    def release(self) -> None:
        """Give the place to the next one that waits."""
        while self._waiting:
            _, place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        self._free += 1

    def _reject(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting and self._waiting[0][0] <= loop.time():
            _, place = self._waiting.popleft()
            if not place.done():
                place.set_exception(Busy(self._kind))
        self._rejection = loop.call_at(self._waiting[0][0], self._reject) if self._waiting else None

    async def __aenter__(self) -> None:
        place = self.take()
        if place is None:
            return
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled() and place.exception() is None:
                self.release()  # it was given at the very moment
            raise
        finally:
            del place  # its error has a trace, which keeps this frame: a reference cycle with the whole request in it

    async def __aexit__(self, *_error: object) -> None:
        self.release()


class Turns:
    """At most `count` callbacks run in one iteration of the event loop, in their order.

    So work of one kind, however much there is of it, does not delay other work.
    """

    def __init__(self, count: int) -> None:
        self._count = self._free = count
        self._waiting: dict[Callable[[], object], None] = {}

    def call(self, callback: Callable[[], object]) -> None:
        """Call it at once, or in a later iteration if `count` callbacks have run in this one."""
        if self._free == self._count:
            asyncio.get_running_loop().call_soon(self._begin_iteration)
        if self._free:
            self._free -= 1
            callback()
        else:
            self._waiting[callback] = None

    def cancel(self, callback: Callable[[], object]) -> None:
        """Do not call it any more, if it still waits."""
        self._waiting.pop(callback, None)

    async def take(self) -> None:
        """Return when the caller may continue."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def begin() -> None:
            if not turn.done():  # else the task that waits is being cancelled
                turn.set_result(None)

        self.call(begin)
        try:
            await turn
        finally:
            self.cancel(begin)

    def _begin_iteration(self) -> None:
        self._free = self._count
        for callback in list(islice(self._waiting, self._count)):
            if callback in self._waiting:  # else one before it has cancelled it
                del self._waiting[callback]
                self.call(callback)


async def read_body(request: web.Request, limit: int) -> bytes:
    """The request's body.

    Raises:
        HTTPRequestEntityTooLarge: it has more than `limit` bytes. If the client announces this, none of it is read.
        ConnectionError: the client has left.
        BodyTimeout, NoMemory: the server accepted no more of it.
    """
    body = request.content
    if request.transport is None and not body.is_eof():
        raise ConnectionResetError("the client left before its body was complete")
    parts: list[bytes] = []
    size = request.content_length or 0
    received = 0
    try:
        while size <= limit and (part := await body.readany()):
            parts.append(part)
            received += len(part)
            size = max(size, received)
        if (error := body.exception()) is not None:
            raise error
        if size > limit:
            raise web.HTTPRequestEntityTooLarge(max_size=limit)
        return b"".join(parts)
    finally:
        parts.clear()  # the traceback of an error keeps this frame, and with it the parts, in memory for a while

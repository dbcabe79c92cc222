"""The short path: a few kinds of requests are answered without aiohttp's router, handler and tasks.

A request takes it if it is ordinary: its request line is one of a few, it has arrived completely and in one piece, and
the connection has no other request. aiohttp's own parser reads it. Every other request is passed to aiohttp from its
first byte, so that no rule of HTTP is implemented twice.
"""

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple

from aiohttp import hdrs, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpProcessingError, HttpRequestParser, RawRequestMessage

from daemon.runtime.http.errors import SERVER

if TYPE_CHECKING:
    from daemon.runtime.http.connection import Connection

MAX_BODY_BYTES = 256 * 1024  # asyncio reads no more at once
HEAD_END = b"\r\n\r\n"
LENGTH = re.compile(rb"\r\ncontent-length: *(\d{1,9})\r\n", re.IGNORECASE)


class PreparedReply(NamedTuple):
    """A reply as it is sent, without the headers that depend on the moment; it can be sent many times."""

    status: int
    head: bytes
    body: bytes

    @classmethod
    def of(cls, response: web.Response) -> "PreparedReply":
        """Prepare a response that no handler has sent."""
        body = response.body if isinstance(response.body, bytes) else b""
        headers = {**response.headers, hdrs.SERVER: SERVER}
        if response.status != HTTPStatus.NOT_MODIFIED:  # its length would be that of the reply which the client has
            headers[hdrs.CONTENT_LENGTH] = str(len(body))
        lines = [f"HTTP/1.1 {response.status} {response.reason}", *(f"{name}: {headers[name]}" for name in headers)]
        return cls(response.status, "\r\n".join(lines).encode(), body)

    def encode(self, *, close: bool) -> bytes:
        """The bytes to send now; `close` announces that the connection ends after them."""
        moment = _date_line(int(time.time())) + (b"\r\nConnection: close" if close else b"")
        return b"%b\r\n%b\r\n\r\n%b" % (self.head, moment, self.body)


def _is_single(data: bytes, head_bytes: int) -> bool:
    """Whether the head and the length that it states are all of `data`: aiohttp's parser need not read more requests
    than one to find that there are several."""
    length = LENGTH.search(data, 0, head_bytes)
    return head_bytes + (int(length[1]) if length else 0) == len(data)


@lru_cache(maxsize=1)
def _date_line(second: int) -> bytes:
    return f"Date: {formatdate(second, usegmt=True)}".encode()


class ShortRequest:
    """A request on the short path.

    Attributes:
        after_pause: whether its client waited for a moment before it.
        closes: whether its client expects that the connection ends after the reply.
    """

    __slots__ = ("_connection", "after_pause", "body", "closes", "headers", "method")

    def __init__(self, connection: "Connection", head: RawRequestMessage, body: bytes) -> None:
        self._connection = connection
        self.method = head.method
        self.headers = head.headers
        self.body = body
        self.after_pause = connection.after_pause
        self.closes = head.should_close

    def answer(self, reply: PreparedReply, *, close: bool = False) -> None:
        """Send the reply, if the client is still there. Called once.

        Args:
            close: the connection ends after the reply.
        """
        self._connection.answer(reply, close=close or self.closes)


# Returns False if the request is not ordinary in its view; otherwise it answers the request, at once or later.
ShortHandler = Callable[[ShortRequest], bool]
FindHandler = Callable[[bytes], ShortHandler | None]


class ShortPath:
    """Recognises the requests that take the short path.

    Args:
        find_handler: returns the handler of a request line, without its end.
        options: of aiohttp's parser.
    """

    def __init__(self, find_handler: FindHandler, options: Mapping[str, Any]) -> None:
        self._find_handler = find_handler
        self._options = options
        self._parser = self._new_parser()

    def _new_parser(self) -> HttpRequestParser:
        """One parser serves all connections, because each request is complete. After any other input it is replaced."""
        loop = asyncio.get_running_loop()
        return HttpRequestParser(BaseProtocol(loop), loop, MAX_BODY_BYTES, **self._options)

    def find(self, connection: "Connection", data: bytes) -> tuple[ShortRequest, ShortHandler] | None:
        """The request in `data` and its handler, if it can take the short path."""
        handler = self._find_handler(data[: data.find(b"\r\n")])
        if handler is None:
            return None
        head_bytes = data.find(HEAD_END) + len(HEAD_END)
        if not _is_single(data, head_bytes):
            return None
        try:
            messages, upgraded, _ = self._parser.feed_data(data)
            [(head, content)] = messages
        except (HttpProcessingError, ValueError):
            self._parser = self._new_parser()
            return None
        if upgraded or not content.is_eof() or head_bytes + content.total_bytes != len(data):
            self._parser = self._new_parser()
            return None
        if head.chunked or head.compression or hdrs.EXPECT in head.headers:
            return None
        body = content.read_nowait() if content.total_bytes else b""
        return ShortRequest(connection, head, body), handler

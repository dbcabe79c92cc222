"""A server in the place of the API, and clients, for the tests of the proxies in front of it.

Clients come from several addresses of 127.0.0.0/8, because many limits are per address.
"""

import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.support.tls import client_context

Headers = dict[str, str]


@dataclass(frozen=True)
class Reply:
    """What a client got."""

    status: int
    headers: Headers
    body: bytes

    @property
    def json(self) -> dict[str, object]:
        """The body, which must be JSON."""
        assert self.headers["content-type"].startswith("application/json")
        decoded: dict[str, object] = json.loads(self.body)
        return decoded


def ask(
    port: int,
    path: str,
    *,
    address: str = "127.0.0.1",
    method: str = "GET",
    body: bytes | None = None,
    headers: Mapping[str, str] = {},
) -> Reply:
    """One request over a connection of its own."""
    with closing(connection(port, address)) as client:
        return reply_to(client, path, method=method, body=body, headers=headers)


def connection(port: int, address: str = "127.0.0.1") -> http.client.HTTPSConnection:
    return http.client.HTTPSConnection(
        "127.0.0.1", port, timeout=30, context=client_context(), source_address=(address, 0)
    )


def reply_to(
    client: http.client.HTTPConnection,
    path: str,
    *,
    method: str = "GET",
    body: bytes | None = None,
    headers: Mapping[str, str] = {},
) -> Reply:
    client.request(method, path, body, dict(headers))
    reply = client.getresponse()
    return Reply(reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read())


def opened(port: int, request: bytes, receive_bytes: int = 0) -> socket.socket:
    """A TLS connection on which some bytes were sent."""
    plain = socket.socket()
    if receive_bytes:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    plain.settimeout(60)
    plain.connect(("127.0.0.1", port))
    client = client_context().wrap_socket(plain)
    client.sendall(request)
    return client


def received(client: socket.socket) -> bytes:
    """Everything until the other end closes; a reset is an end too."""
    data = b""
    with suppress(ConnectionResetError):
        while part := client.recv(65536):
            data += part
    return data


def check_refused(reply: Reply, status: int) -> None:
    """The reply is a refusal of a proxy: its header and its body contain the time after which to try again."""
    assert (reply.status, reply.headers["retry-after"]) == (status, "30")
    assert reply.json == {
        "error": {503: "Service Unavailable", 429: "Too Many Requests"}[status],
        "message": reply.json["message"],
        "retryAfter": 30,
    }


class StandIn(ThreadingHTTPServer):
    """A server in the API's place: it answers 200 with the request's headers, unless a test wants something else."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[tuple[str, str, Headers]] = []  # but for health checks: method, path, headers
        self.answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that its client ended is no fault of the test."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet
    server: StandIn

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "Transfer-Encoding" in self.headers:
            while self.rfile.readline() != b"0\r\n":
                self.rfile.readline()
            self.rfile.readline()
        if self.headers["Host"] != "donationd":  # HAProxy's own health checks
            self.server.requests.append((self.command, self.path, dict(self.headers)))
        self.server.answers.get(self.path, answered)(self)
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        pass


def answered(handler: BaseHTTPRequestHandler, status: int = 200, body: bytes | None = None) -> None:
    handler.send_response(status)
    if body is None:
        body = json.dumps({name.lower(): value for name, value in handler.headers.items()}).encode()
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


@contextmanager
def stand_in() -> Iterator[StandIn]:
    """It serves until the end."""
    with StandIn() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))  # seconds between its looks at shutdown()
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()

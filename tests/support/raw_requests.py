"""Requests to a running API process and its sidecar, byte by byte, as no client library sends them."""

import json
import socket
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from daemon.simulator import sender
from tests.bench.machine import SECRET, Site, Stored, resident_mb

CHUNKED = "Transfer-Encoding: chunked"
EVENT = {"object": "event", "type": "customer.created", "created": 1_760_000_000, "livemode": False}
GET = b"GET %b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
TICKET = "ticket_large"
KEEP = b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n"


@dataclass(frozen=True)
class RunningApi:
    """A running API process with its database, and where it writes."""

    site: Site
    database: Stored
    folder: Path

    @property
    def log(self) -> str:
        [log] = self.folder.glob("api-*.log")
        return log.read_text()

    def replies(self, status: int) -> float:
        """How many requests were answered so, by the process's own count."""
        [metrics] = self.folder.glob("*-metrics")
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(metrics))  # type: ignore[no-untyped-call]
        samples = [s for m in registry.collect() for s in m.samples if s.name == "http_requests_total"]
        return sum(sample.value for sample in samples if sample.labels["status"] == str(status))

    @property
    def resident_mb(self) -> float:
        return resident_mb(self.site)

    @property
    def descriptors(self) -> int:
        [pid] = self.site.pids
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def connect(api: RunningApi, receive_bytes: int = 0, port: int | None = None) -> socket.socket:
    client = socket.socket()
    client.settimeout(30)
    if receive_bytes:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    client.connect(("127.0.0.1", port or api.site.port))
    return client


def is_open(api: RunningApi, client: socket.socket) -> bool:
    """Whether the process has its end of the connection: the kernel may keep it for longer (proc(5), net/tcp)."""
    ends = f":{api.site.port:04X} 0100007F:{client.getsockname()[1]:04X} "
    lines = Path("/proc/net/tcp").read_text().splitlines()
    return any(ends in line and line.split()[9] != "0" for line in lines)


def rest(client: socket.socket) -> bytes:
    """Everything until the other end closes; a reset is an end too."""
    received = b""
    with suppress(ConnectionResetError):
        while part := client.recv(65536):
            received += part
    return received


def ask(api: RunningApi, request: bytes, port: int | None = None) -> bytes:
    """All that is answered to some bytes, by the API unless the port of another process is given."""
    with closing(connect(api, port=port)) as client:
        with suppress(ConnectionError):  # answered and closed before all was sent
            client.sendall(request)
        return rest(client)


def ask_each(api: RunningApi, requests: Iterable[bytes]) -> list[bytes]:
    """The replies to some requests, a few at the same time, because some of them are waited for."""
    with ThreadPoolExecutor(8) as clients:
        return list(clients.map(lambda request: ask(api, request), requests))


def status(reply: bytes) -> int:
    return int(reply.split(b" ", 2)[1]) if reply else 0


def signed(body: bytes, *headers: str, length: bool = True) -> bytes:
    """A delivery of the body, signed as Stripe signs it."""
    lines = [
        "POST /webhooks/stripe HTTP/1.1",
        "Host: a",
        "Connection: close",
        f"Stripe-Signature: {sender.sign(body, SECRET, int(time.time()))}",
        *([f"Content-Length: {len(body)}"] if length else []),
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


_numbers = iter(range(10**9))


def event(**more: object) -> bytes:
    """A new event of a type that changes nothing."""
    return json.dumps({"id": f"evt_{next(_numbers)}", **EVENT, "data": {"object": {}}, **more}).encode()


def deliver(api: RunningApi, *headers: str) -> bytes:
    body = event()
    return ask(api, signed(body, *headers) + body)


def dripping(client: socket.socket, data: bytes, every_s: float = 0.2) -> bytes:
    """Sends byte by byte until the other end has had enough; returns what it said."""
    client.settimeout(every_s)
    try:
        for byte in data:
            client.sendall(bytes([byte]))
            try:
                first = client.recv(65536)
            except TimeoutError:
                continue
            client.settimeout(30)
            return first + rest(client)
    except ConnectionError:
        return b""
    raise AssertionError("no connection was closed")


def sidecar_port(api: RunningApi) -> int:
    log = (api.folder / "clients-sidecar.log").read_text()
    return int(log.partition("listening on http://127.0.0.1:")[2].split()[0])

"""Clients of one hostile kind, many at once, each coming again as soon as it was answered, refused or disconnected.

They run in a process of their own (`python -m tests.bench.flood`) at a low priority, because on a real network they
would not take the server's processor time: what the server's own work needs it gets first. So one turn of its loop may
take longer than the flood itself: a timer's signal ends it, between two instructions.
"""

import asyncio
import os
import re
import resource
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NoReturn

import msgspec

from tests.bench.machine import Broken
from tests.support.process import ROOT
from tests.support.tls import client_context

BODY_LIMIT = 1024 * 1024
SMALL_BODY = 3000
LARGE_BODY = 100_000  # more than HAProxy holds until a request is complete
UNREAD_BODY, AHEAD = 30_000, 40  # so many requests at a time, each with so many bytes
TRICKLE_EVERY_S = 1.0  # a byte, or what a slow reader reads at once
SLOW_RECEIVE_BYTES = 4096
RETRY_S = 0.1  # after a connection that could not be made
NICENESS = 10
END_TIMEOUT_S = 30.0

# Linux chooses the port when the address is connected, and not before: else 28,000 connections use up an address.
IP_BIND_ADDRESS_NO_PORT = 24

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
CLOSES = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


class Flood(msgspec.Struct, frozen=True):
    """What to do.

    `kind` is one of KINDS. The clients come from as many addresses of 127.0.0.0/8 (from 127.0.1.1 on) as `addresses`
    says, or fewer.
    """

    kind: str
    port: int
    tls: bool
    ticket: str
    clients: int = 1000
    addresses: int = 250
    seconds: float = 10.0


class Flooded(msgspec.Struct, frozen=True):
    """What became of it: replies by status, connections that could not be made, ended requests, processor time."""

    replies: dict[str, int]
    connections_failed: int
    ended_without_reply: int
    cpu_s: float


@dataclass(frozen=True)
class Behaviour:
    """What one client does on a connection: it sends `first`, reads the replies, and sends `first` again.

    Args:
        requests: how many `first` holds.
        trickles: it never completes the request, but sends a byte more each second.
        leaves: it disconnects as soon as all of `first` is sent.
        reads_slowly: it reads some kB a second.
    """

    first: bytes
    requests: int = 1
    trickles: bool = False
    leaves: bool = False
    reads_slowly: bool = False


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


def _post(announced: int, sent: int) -> bytes:
    signature = f"t={int(time.time())},v1={'0' * 64}"
    head = f"POST /webhooks/stripe HTTP/1.1\r\nHost: 127.0.0.1\r\nStripe-Signature: {signature}\r\n"
    return f"{head}Content-Length: {announced}\r\n\r\n".encode() + b" " * sent


def _unread_body() -> bytes:
    """The end of a request's head, and a body that nothing reads."""
    return f"Content-Length: {UNREAD_BODY}\r\n\r\n".encode() + b" " * UNREAD_BODY


def _behaviours(kind: str, ticket: str) -> list[Behaviour]:
    """What the clients of a kind do, by turns."""
    page = _get(f"/api/tickets/{ticket}/donations?limit=1000")
    return {
        "unknown-paths": [Behaviour(_get("/nothing"))],
        "wrong-signatures": [Behaviour(_post(SMALL_BODY, SMALL_BODY))],
        "cut-bodies": [Behaviour(_post(BODY_LIMIT, BODY_LIMIT - 1000), leaves=True)],
        "ledger-pages": [Behaviour(page)],
        "ticket-pages": [Behaviour(_get(f"/tickets/{ticket}"))],
        "health-checks": [Behaviour(_get("/health/db"))],
        "slow-heads": [Behaviour(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ", trickles=True)],
        "slow-bodies": [
            Behaviour(_post(SMALL_BODY, SMALL_BODY // 2), trickles=True),
            Behaviour(_post(LARGE_BODY, LARGE_BODY // 2), trickles=True),
        ],
        "slow-readers": [Behaviour(page, reads_slowly=True)],
        "sent-ahead": [Behaviour((page.removesuffix(b"\r\n") + _unread_body()) * AHEAD, requests=AHEAD)],
    }[kind]


KINDS = (
    "unknown-paths",
    "wrong-signatures",
    "cut-bodies",
    "ledger-pages",
    "ticket-pages",
    "health-checks",
    "slow-heads",
    "slow-bodies",
    "slow-readers",
    "sent-ahead",
)


@dataclass
class _Counts:
    replies: Counter[str] = field(default_factory=Counter)
    connections_failed: int = 0
    ended_without_reply: int = 0
    attempted: set[int] = field(default_factory=set)  # the clients that tried to connect
    all_attempted: asyncio.Event = field(default_factory=asyncio.Event)


class _Connection(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self, behaviour: Behaviour, counts: _Counts) -> None:
        self._behaviour = behaviour
        self._counts = counts
        self._loop = asyncio.get_running_loop()
        self._received = b""  # of a reply's head
        self._missing = 0  # bytes of the reply's body
        self._pending = 0  # requests that have no reply yet
        self.ended = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._behaviour.leaves:
            transport.set_write_buffer_limits(0)
        self._send()
        if self._behaviour.trickles:
            self._loop.call_later(TRICKLE_EVERY_S, self._trickle)

    def _send(self) -> None:
        self._pending = self._behaviour.requests
        self._transport.write(self._behaviour.first)
        if self._behaviour.leaves and not self._transport.get_write_buffer_size():
            self._transport.abort()

    def resume_writing(self) -> None:
        """All is sent. asyncio, which calls this, would close once more a connection that ends before this returns."""
        if self._behaviour.leaves:
            self._loop.call_soon(self._transport.abort)

    def _trickle(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(b"a")
            self._loop.call_later(TRICKLE_EVERY_S, self._trickle)

    def data_received(self, data: bytes) -> None:
        if self._behaviour.reads_slowly:
            self._transport.pause_reading()
            self._loop.call_later(TRICKLE_EVERY_S, self._read_on)
        skipped = min(self._missing, len(data))
        self._missing -= skipped
        self._received += data[skipped:]
        while not self._missing and not self._transport.is_closing() and b"\r\n\r\n" in self._received:
            head, _end, rest = self._received.partition(b"\r\n\r\n")
            length = LENGTH.search(head)
            announced = int(length[1] if length else 0)
            self._received, self._missing = rest[announced:], max(announced - len(rest), 0)
            self._end_reply(head)

    def _read_on(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def _end_reply(self, head: bytes) -> None:
        self._counts.replies[head[9:12].decode()] += 1
        self._pending -= 1
        if self._behaviour.trickles or CLOSES.search(head):
            self._transport.close()
        elif not self._pending:
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        self._counts.ended_without_reply += bool(self._pending)
        if not self.ended.done():
            self.ended.set_result(None)


async def _client(number: int, flood: Flood, context: ssl.SSLContext | None, counts: _Counts) -> None:
    """One client, for ever."""
    behaviours = _behaviours(flood.kind, flood.ticket)
    behaviour = behaviours[number % len(behaviours)]
    network, host = divmod(number % flood.addresses, 250)
    address = f"127.0.{1 + network}.{1 + host}"
    while True:
        try:
            connection = await _connect(address, flood.port, context, behaviour, counts)
        except OSError:
            counts.connections_failed += 1
            connection = None
        counts.attempted.add(number)
        if len(counts.attempted) == flood.clients:
            counts.all_attempted.set()
        await (connection.ended if connection else asyncio.sleep(RETRY_S))


async def _connect(
    address: str, port: int, context: ssl.SSLContext | None, behaviour: Behaviour, counts: _Counts
) -> _Connection:
    client = socket.socket()
    try:
        client.setblocking(False)
        if behaviour.reads_slowly:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_RECEIVE_BYTES)
        client.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        client.bind((address, 0))
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, ("127.0.0.1", port))
        _transport, connection = await loop.create_connection(
            lambda: _Connection(behaviour, counts),
            sock=client,
            ssl=context,
            server_hostname="127.0.0.1" if context else None,
        )
    except BaseException:
        client.close()
        raise
    return connection


async def _run(flood: Flood) -> None:
    counts = _Counts()
    context = client_context() if flood.tls else None
    tasks = [asyncio.create_task(_client(number, flood, context, counts)) for number in range(flood.clients)]
    await counts.all_attempted.wait()
    signal.signal(signal.SIGALRM, lambda _signal, _frame: _end(counts))
    signal.setitimer(signal.ITIMER_REAL, flood.seconds)
    print("ready", flush=True)
    await asyncio.gather(*tasks)


def _end(counts: _Counts) -> NoReturn:
    """Prints the result and ends the process at once: to close thousands of connections in order would take long."""
    cpu_s = sum(os.times()[:2])
    flooded = Flooded(dict(counts.replies), counts.connections_failed, counts.ended_without_reply, cpu_s)
    os.write(sys.stdout.fileno(), msgspec.json.encode(flooded))
    os._exit(0)


def main() -> None:
    """Does what the JSON in the first argument says, and prints `ready`, then the result as JSON."""
    flood = msgspec.json.decode(sys.argv[1], type=Flood)
    os.nice(NICENESS)
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(_run(flood))


class Flooding:
    """A flood that runs; its result once it has ended."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def result(self) -> Flooded:
        """Waits for its end. Raises Broken when it failed."""
        output, _none = self._process.communicate(timeout=END_TIMEOUT_S)
        if self._process.returncode:
            raise Broken("the flood failed")
        return msgspec.json.decode(output, type=Flooded)


@contextmanager
def flooding(flood: Flood) -> Iterator[Flooding]:
    """A flood from when each client has tried to connect. Raises Broken when it does not get there."""
    command = [sys.executable, "-m", "tests.bench.flood", msgspec.json.encode(flood).decode()]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise Broken("the flood does not start")
        yield Flooding(process)
    finally:
        process.kill()
        process.communicate()


if __name__ == "__main__":
    main()

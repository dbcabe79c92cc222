"""The short path beside aiohttp's own: the same replies, in the same order, whatever a client sends and however."""

import asyncio
import gc
import json
import re
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from aiohttp.web_urldispatcher import AbstractRoute
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.api import reply_queue
from daemon.api.app import build
from daemon.api.metrics import ApiMetrics
from daemon.api.reply_queue import ReplyQueue
from daemon.api.short_path import ShortPath
from daemon.api.tickets import Donations
from daemon.api.webhook import Webhook
from daemon.ledger.batcher import Batcher
from daemon.ledger.changes import APPLIED, DUPLICATE, IGNORED, Outcome, ReceivedEvent, Result
from daemon.runtime.http import limits
from daemon.runtime.http import server as server_module
from daemon.runtime.http.connection import Connection
from daemon.runtime.http.health_routes import HealthChecks
from daemon.runtime.http.limits import Limits, Places
from daemon.runtime.http.server import HttpServer
from daemon.runtime.http.short_path import ShortHandler, ShortRequest
from daemon.simulator import sender
from sql.errors import DatabaseUnavailable
from tests.support.api_application import NOW, SECRET, follower, reply_parts
from tests.support.process import WAIT_S

LIMITS = Limits(connections=50, memory_bytes=2**20, head_s=60, body_s=60, reply_s=60, idle_s=60)
CHANGES_NOTHING = {"object": "event", "created": NOW, "livemode": False, "data": {"object": {}}}
REPLY = re.compile(rb"HTTP/1\.[01] (\d+) [^\r]*\r\n((?:[^\r]+\r\n)*)\r\n")
Reply = tuple[int, frozenset[str], bytes]


class Writer:
    """Records nothing. An event's id decides its outcome; nothing is written while `hold` is set."""

    def __init__(self) -> None:
        self.recorded: list[str] = []
        self.may_write = asyncio.Event()
        self.may_write.set()
        self.error: Exception | None = None

    async def record(self, changes: Sequence[ReceivedEvent]) -> list[Outcome]:
        await self.may_write.wait()
        if self.error:
            raise self.error
        self.recorded += [change.event.id for change in changes]
        return [self._outcome(change) for change in changes]

    def _outcome(self, change: ReceivedEvent) -> Outcome:
        if change.error:
            return Outcome(Result.FAILED, change.error)
        if "seen" in change.event.id:
            return DUPLICATE
        return IGNORED if change.event.facts is None else APPLIED


class CountingWebhook(Webhook):
    """Counts the deliveries that do not take the short path."""

    long_ways = 0

    async def receive(self, request: web.Request) -> web.Response:
        self.long_ways += 1
        return await super().receive(request)


@dataclass
class Served:
    """A running server and its parts."""

    server: HttpServer
    webhook: CountingWebhook
    writer: Writer
    metrics: ApiMetrics
    draining: asyncio.Event
    begun: list[bytes]  # the lines of the requests that the short path has seen, in their order

    async def connect(self) -> "Client":
        host, port = self.server.addresses[0]
        return Client(*await asyncio.open_connection(host, port))

    @asynccontextmanager
    async def client(self) -> AsyncIterator["Client"]:
        client = await self.connect()
        yield client
        client.writer.close()


@dataclass
class Client:
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    _received: bytes = field(default=b"")

    async def ask(self, *pieces: bytes) -> Reply:
        """Sends the pieces one after the other, and returns the next reply."""
        await self.send(*pieces)
        return await self.reply()

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await asyncio.sleep(0.002)  # so that each arrives by itself

    async def reply(self) -> Reply:
        """The next reply: its status, its headers without those that differ each time, its body."""
        async with asyncio.timeout(WAIT_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
        found = REPLY.fullmatch(head)
        assert found, head
        headers = {line for line in found[2].decode().split("\r\n") if line and not line.startswith("Date: ")}
        assert f"Date: {head.partition(b'Date: ')[2][:29].decode()}" in head.decode()
        [length] = [int(line.partition(": ")[2]) for line in headers if line.startswith("Content-Length")] or [0]
        return int(found[1]), frozenset(headers), await self.reader.readexactly(length)

    async def replies_to(self, *pieces: bytes) -> list[Reply]:
        """Sends the pieces. Returns every reply until the server closes the connection."""
        sending = asyncio.create_task(self.send(*pieces))
        replies = []
        with suppress(asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            while True:
                replies.append(await self.reply())
        with suppress(ConnectionError):
            await sending
        return replies


@asynccontextmanager
async def served(
    *, short: bool = True, ready: bool = True, places: int = 20, queue: int = 100, deadline_s: float = 60
) -> AsyncIterator[Served]:
    """A server as an API process has it, with a writer that needs no database."""
    writer, metrics, readiness = Writer(), ApiMetrics(), follower(ready)
    batcher, free = Batcher(writer, queue), Places("deliveries", places)

    async def record(received: ReceivedEvent, size: int) -> Outcome:
        async with free:
            return await batcher.record(received, size)

    webhook = CountingWebhook(
        record, metrics, secrets=(SECRET,), livemode=False, hash_key=None, clock=lambda: float(NOW)
    )
    parts, health = reply_parts(metrics, readiness, deadline_s=deadline_s), HealthChecks(lambda: readiness.state)
    replies = ReplyQueue(parts)
    handlers = ShortPath(webhook, batcher, free, health, replies).handlers() if short else {}
    begun: list[bytes] = []

    def find_handler(line: bytes) -> ShortHandler | None:
        begun.append(line)
        return handlers.get(line)

    app = build(webhook, Donations(None, "USD"), parts, health=health)  # type: ignore[arg-type]
    async with HttpServer(web.AppRunner(app, shutdown_timeout=30), LIMITS, short_path=find_handler) as server:
        await server.listen(host="127.0.0.1", port=0)
        watches = [asyncio.create_task(each) for each in (replies.watch_deadline(), server.sweep())]
        yield Served(server, webhook, writer, metrics, parts.draining, begun)
        for watch in watches:
            watch.cancel()


def event(number: object, **changes: Any) -> bytes:
    return json.dumps({"id": f"evt_{number}", "type": "customer.created", **CHANGES_NOTHING, **changes}).encode()


def delivery(body: bytes, *headers: str, line: str = "POST /webhooks/stripe HTTP/1.1", secret: str = SECRET) -> bytes:
    signature = f"Stripe-Signature: {sender.sign(body, secret, NOW)}"
    length = [] if any("chunked" in header for header in headers) else [f"Content-Length: {len(body)}"]
    return "\r\n".join([line, "Host: a", signature, *length, *headers]).encode() + b"\r\n\r\n" + body


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: a", *headers]).encode() + b"\r\n\r\n"


CHARGE = {"id": "ch_1", "amount": 500, "currency": "usd"}
BAD_CHARGE = {"type": "charge.succeeded", "data": {"object": {**CHARGE, "amount": "five"}}}
ORDINARY = {
    "new": delivery(event(1)),
    "seen": delivery(event("seen1")),
    "applied": delivery(event(2, type="charge.succeeded", data={"object": CHARGE})),
    "not applicable": delivery(event(3, **BAD_CHARGE)),
    "other mode": delivery(event(4, type="charge.succeeded", livemode=True)),
    "thin": delivery(event(5, object="v2.core.event", created="2025-10-09T08:53:20Z", data=None)),
    "closing": delivery(event(6), "Connection: close"),
    "many headers": delivery(event(7), *(f"X-{number}: x" for number in range(90))),
    "wrong signature": delivery(event(8), secret="whsec_other"),
    "no event": delivery(b"{}"),
    "no JSON": delivery(b"\xff\xfe"),
    "health": get("/health/db"),
    "health, closing": get("/health/db", "Connection: close"),
    "health with a body": get("/health/db", "Content-Length: 3") + b"abc",
}
OTHERS = {
    "chunked": delivery(b"3\r\nabc\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
    "expectation": delivery(event(12), "Expect: other"),
    "encoded": delivery(event(13), "Content-Encoding: gzip"),
    "old HTTP": delivery(event(14), line="POST /webhooks/stripe HTTP/1.0"),
    "a slash": delivery(event(15), line="POST /webhooks/stripe/ HTTP/1.1"),
    "another method": delivery(event(16), line="PUT /webhooks/stripe HTTP/1.1"),
    "too many headers": delivery(event(17), *(f"X-{number}: x" for number in range(200))),
    "a long header": delivery(event(18), f"X: {'x' * 9000}"),
    "two lengths": delivery(event(19), "Content-Length: 3"),
    "length and chunks": delivery(event(20), "X: chunked", "Transfer-Encoding: chunked"),
    "a bad header": delivery(event(21), "X y: z"),
    "an upgrade": get("/health/db", "Connection: Upgrade", "Upgrade: h2c"),
    "unknown path": get("/nothing"),
    "health with a query": get("/health/db?x=1"),
}
REQUESTS = {**ORDINARY, **OTHERS}
# After these the server closes the connection. What a client sends after them may cost it the reply (TCP resets).
CLOSING = {
    *("closing", "health, closing", "old HTTP", "expectation", "too many headers", "a long header"),
    *("two lengths", "length and chunks", "a bad header"),
}
# What is left unread of a body closes the connection, and what follows an upgrade is kept apart: its time counts.
UNREAD = {"a slash", "another method", "an upgrade"}
LAST = get("/health/db", "Connection: close")


@pytest.mark.parametrize("name", ORDINARY)
async def test_an_ordinary_request_takes_the_short_path(name: str) -> None:
    """It is answered as aiohttp's way answers it, and counted alike."""
    async with served() as short, served(short=False) as long:
        replies = []
        for each in (short, long):
            async with each.client() as client:
                replies.append(await client.ask(ORDINARY[name]))
        assert replies[0] == replies[1]
        assert short.writer.recorded == long.writer.recorded
        assert short.webhook.long_ways == 0
        assert counts(short.metrics) == counts(long.metrics)


@pytest.mark.parametrize("name", OTHERS)
async def test_an_unusual_request_takes_the_long_path(name: str) -> None:
    """It is answered and counted as by a server without a short path, and so is an ordinary one after it."""
    async with served() as short, served(short=False) as long:
        replies = []
        for each in (short, long):
            async with each.client() as client:
                replies.append(await client.replies_to(OTHERS[name], delivery(event(30)), LAST))
        assert replies[0] == replies[1] != []
        assert short.writer.recorded == long.writer.recorded
        assert counts(short.metrics) == counts(long.metrics)


def counts(metrics: ApiMetrics) -> dict[tuple[str, str], float]:
    """Every figure but those that measure time."""
    return {
        (sample.name, str(sample.labels)): sample.value
        for metric in metrics.registry.collect()
        for sample in metric.samples
        if not sample.name.endswith(("_sum", "_created", "_bucket"))
    }


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    names=st.lists(st.sampled_from(sorted(REQUESTS.keys() - CLOSING - UNREAD)), min_size=1, max_size=6),
    cuts=st.lists(st.integers(0, 3000), max_size=6),
)
def test_any_requests_in_any_pieces(names: list[str], cuts: list[int]) -> None:
    """Requests on one connection, however they are divided into packets, get the replies of a server without a short
    path, in their order."""
    everything = b"".join(REQUESTS[name] for name in names)
    ends = sorted({min(cut, len(everything)) for cut in cuts} | {len(everything)})
    pieces = [everything[begin:end] for begin, end in zip([0, *ends], ends, strict=False) if end > begin]
    per_request = [REQUESTS[name] for name in names]
    for division in (pieces, per_request):
        assert asyncio.run(answered(division, short=True)) == asyncio.run(answered(division, short=False))


async def answered(pieces: list[bytes], *, short: bool) -> tuple[list[Reply], list[str]]:
    async with served(short=short) as each, each.client() as client:
        return await client.replies_to(*pieces, LAST), each.writer.recorded


async def test_pipelined_requests_are_answered_in_their_order() -> None:
    """What arrives while a delivery is recorded waits for its reply, however it arrives."""
    async with served() as each, each.client() as client:
        each.writer.may_write.clear()
        await client.send(ORDINARY["new"], ORDINARY["health"], OTHERS["unknown path"] + ORDINARY["seen"][:50])
        each.writer.may_write.set()
        bodies = [(await client.reply())[2] for _ in range(3)]
        last = await client.ask(ORDINARY["seen"][50:])
        assert [b"customer.created" in bodies[0], b"ready" in bodies[1], b"nothing at" in bodies[2]] == [True] * 3
        assert b'"idempotent":true' in last[2]
        assert each.webhook.long_ways == 1


async def test_nothing_overtakes_what_aiohttp_has_to_answer() -> None:
    """A request that arrives while aiohttp has others waits for their replies, wherever the first one was divided."""
    first = OTHERS["unknown path"]
    async with served() as each, each.client() as client:
        each.writer.may_write.clear()
        await client.send(first[:10], first[10:] + first + OTHERS["encoded"])
        statuses = [(await client.reply())[0] for _ in range(2)]
        await client.send(ORDINARY["health"])
        each.writer.may_write.set()
        bodies = [(await client.reply())[2] for _ in range(2)]
        assert statuses == [404, 404]
        assert [b"customer.created" in bodies[0], b"ready" in bodies[1]] == [True, True]


async def test_a_connection_comes_back_to_the_short_path() -> None:
    """After a request that aiohttp has answered completely an ordinary one takes the short path again."""
    async with served() as each, each.client() as client:
        for ways in (2, 4):
            await client.ask(ORDINARY["no event"][:-1], ORDINARY["no event"][-1:])
            await client.ask(ORDINARY["new"][:-10], ORDINARY["new"][-10:])
            await client.ask(ORDINARY["new"])
            assert each.webhook.long_ways == ways


@pytest.mark.parametrize(
    ("pieces", "status"),
    [
        ([ORDINARY["health"]], b"200"),
        ([ORDINARY["wrong signature"]], b"400"),
        ([OTHERS["unknown path"]], b"404"),
        ([OTHERS["another method"]], b"405"),
        ([ORDINARY["new"]], b"503"),
        ([ORDINARY["new"][:-1], ORDINARY["new"][-1:]], b"503"),
    ],
    ids=["health", "wrong signature", "unknown path", "another method", "busy", "busy, long path"],
)
async def test_a_request_leaves_no_reference_cycle(
    pieces: list[bytes], status: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it and of its connection waits for a search, also where asyncio and aiohttp refer in circles."""
    monkeypatch.setattr(limits, "QUEUE_WAIT_S", 0.01)
    for module, name in ((reply_queue, "WATCH_S"), (server_module, "SWEEP_S")):
        monkeypatch.setattr(module, name, 0.001)  # so each request and connection is looked at
    loop = asyncio.get_running_loop()

    def kept() -> int:
        kinds = (Connection, ShortRequest, web.Request, AbstractRoute, asyncio.Transport)
        return sum(issubclass(type(each), kinds) for each in gc.get_objects())

    async with served(places=0) as each:
        gc.collect()
        gc.disable()
        before = kept()
        try:
            for _ in range(3):
                with socket.socket() as client:  # not one of asyncio's, which refers to itself
                    client.setblocking(False)
                    await loop.sock_connect(client, each.server.addresses[0][:2])
                    for piece in pieces:
                        await loop.sock_sendall(client, piece)
                        await asyncio.sleep(0.002)
                    assert (await loop.sock_recv(client, 4096)).startswith(b"HTTP/1.1 " + status)
            async with asyncio.timeout(WAIT_S):
                while kept() > before:  # noqa: ASYNC110 - no event reports it
                    await asyncio.sleep(0.01)
        finally:
            gc.enable()


async def test_requests_that_arrive_at_the_same_time_delay_no_health_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """They begin in turn, so few in one iteration of the event loop, and a health check begins at once."""
    monkeypatch.setattr(server_module, "TURN_REQUESTS", 1)
    loop = asyncio.get_running_loop()
    requests = [*([ORDINARY["new"]] * 10), *([OTHERS["unknown path"]] * 10), ORDINARY["health"]]
    async with served() as each, AsyncExitStack() as stack:
        clients = [stack.enter_context(socket.socket()) for _ in requests]
        for client in clients:
            client.setblocking(False)
            await loop.sock_connect(client, each.server.addresses[0][:2])
            await loop.sock_sendall(client, ORDINARY["health"])
            assert (await loop.sock_recv(client, 4096)).startswith(b"HTTP/1.1 200")
        each.begun.clear()
        for client, request in zip(clients, requests, strict=True):
            assert client.send(request) == len(request)
        for client in clients:
            assert (await loop.sock_recv(client, 4096)).startswith(b"HTTP/1.1 ")
        assert each.begun.index(b"GET /health/db HTTP/1.1") <= 1


async def test_a_head_that_aiohttp_has_begun_to_read_is_continued() -> None:
    """What looks like an ordinary request is a part of another one where aiohttp has received that one's beginning."""
    async with served() as each, each.client() as client:
        await client.ask(OTHERS["unknown path"] + b"GET /nothing HTTP/1.1\r\nX: ")
        assert (await client.ask(ORDINARY["health"]))[0] == 404
        assert (await client.ask(ORDINARY["new"][:60], ORDINARY["new"][60:]))[0] == 200


async def test_a_delivery_has_a_deadline() -> None:
    """What is not recorded in time is answered 503, with or without a place."""
    async with served(deadline_s=2, places=1) as each, each.client() as client, each.client() as other:
        each.writer.may_write.clear()
        sent = [asyncio.create_task(one.ask(delivery(event(number)))) for number, one in enumerate((client, other))]
        assert [(await reply)[0] for reply in sent] == [503, 503]
        each.writer.may_write.set()
        assert (await client.ask(delivery(event(3))))[0] == 200
        assert each.webhook.long_ways == 0


async def test_too_many_deliveries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A delivery waits for a place, and is answered 503 if there is none in time."""
    monkeypatch.setattr(limits, "QUEUE_WAIT_S", 0.3)
    async with served(places=1) as each, each.client() as client, each.client() as other:
        each.writer.may_write.clear()
        first = asyncio.create_task(client.ask(ORDINARY["new"]))
        await asyncio.sleep(0.05)
        status, headers, body = await other.ask(ORDINARY["seen"])
        assert (status, "Retry-After: 30" in headers, b"at the same time" in body) == (503, True, True)
        each.writer.may_write.set()
        assert (await first)[0] == 200
        assert (await other.ask(ORDINARY["seen"]))[0] == 200


@pytest.mark.parametrize(
    ("error", "status"), [(DatabaseUnavailable("connection refused"), 503), (ZeroDivisionError(), 500)]
)
async def test_a_batch_that_fails(error: Exception, status: int) -> None:
    """Each of its deliveries gets the reply to its error."""
    async with served() as each, each.client() as client:
        each.writer.error = error
        assert (await client.ask(ORDINARY["new"]))[0] == status
        each.writer.error = None
        assert (await client.ask(ORDINARY["new"]))[0] == 200
        assert each.webhook.long_ways == 0


async def test_a_queue_that_is_full() -> None:
    """More events than may wait: 503 at once, each time."""
    async with served(queue=1, places=3) as each, each.client() as a, each.client() as b, each.client() as c:
        each.writer.may_write.clear()
        sent = []
        for client in (a, b):
            sent.append(asyncio.create_task(client.ask(ORDINARY["new"])))
            await asyncio.sleep(0.02)
        for _ in range(3):
            status, _, body = await c.ask(ORDINARY["new"])
            assert (status, b"more events than can wait" in body) == (503, True)
        each.writer.may_write.set()
        assert [(await reply)[0] for reply in sent] == [200, 200]


async def test_not_ready_is_503() -> None:
    """Before anything else is looked at; health checks are answered."""
    async with served(ready=False) as each, each.client() as client:
        assert [(await client.ask(ORDINARY[name]))[0] for name in ("new", "health")] == [503, 503]
        assert (await client.ask(get("/health/live")))[0] == 200
        assert each.writer.recorded == []


async def test_a_client_that_leaves() -> None:
    """Its event is recorded, and the connection is forgotten."""
    async with served() as each:
        each.writer.may_write.clear()
        async with each.client() as client:
            await client.send(ORDINARY["new"])
        await asyncio.sleep(0.05)
        each.writer.may_write.set()
        async with each.client() as client:
            assert (await client.ask(ORDINARY["seen"]))[0] == 200
        assert each.writer.recorded == ["evt_1", "evt_seen1"]


async def test_draining() -> None:
    """Each reply announces the end of its connection, and the server waits for what is being recorded."""
    async with served() as each:
        client, last = await each.connect(), await each.connect()
        each.writer.may_write.clear()
        await last.send(ORDINARY["new"])
        each.draining.set()
        status, headers, _ = await client.ask(ORDINARY["health"])
        assert (status, "Connection: close" in headers) == (200, True)
        assert await client.reader.read() == b""
        asyncio.get_running_loop().call_later(0.3, each.writer.may_write.set)
    status, headers, _ = await last.reply()
    assert (status, "Connection: close" in headers) == (200, True)
    assert await last.reader.read() == b""
    for each_client in (client, last):
        each_client.writer.close()

"""Totals and first pages on the short path: the same replies as aiohttp's handlers give."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any

import pytest
from aiohttp import web

from daemon.api.app import ReadPlaces, build
from daemon.api.metrics import ApiMetrics
from daemon.api.reply_queue import ReplyQueue
from daemon.api.short_reads import ShortReads
from daemon.api.tickets import Donations
from daemon.api.webhook import Webhook
from daemon.ledger.reader import Ledger
from daemon.runtime.http import limits
from daemon.runtime.http.auth import OperatorAuthentication
from daemon.runtime.http.limits import Limits, Places
from daemon.runtime.http.server import HttpServer
from daemon.runtime.operator_tokens import parse_tokens
from daemon.simulator import scenarios
from sql.connection import Params, Row
from sql.database import Database
from sql.errors import DatabaseUnavailable
from tests.support.api_application import follower, reply_parts
from tests.support.ledger import TICKET, fill

LIMITS = Limits(connections=50, memory_bytes=2**20, head_s=60, body_s=60, reply_s=60, idle_s=60)
TOKENS = parse_tokens(f"reader:read:{sha256(b'reader-token').hexdigest()}")
PAGE, TOTAL = f"/api/tickets/{TICKET}/donations", f"/api/tickets/{TICKET}/donations/total"


class CountingDonations(Donations):
    """Counts the requests that do not take the short path."""

    long_ways = 0

    async def page(self, request: web.Request) -> web.Response:
        """As Donations.page."""
        self.long_ways += 1
        return await super().page(request)

    async def total(self, request: web.Request) -> web.StreamResponse:
        """As Donations.total."""
        self.long_ways += 1
        return await super().total(request)


class Served:
    """A running server; `is_short` decides whether it has a short path."""

    def __init__(
        self, server: HttpServer, donations: CountingDonations, metrics: ApiMetrics, places: ReadPlaces
    ) -> None:
        self.server = server
        self.places = places
        self.donations = donations
        self.metrics = metrics
        self.is_short = True

    async def ask(self, path: str, *headers: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        """The reply to one request on a connection of its own: status, headers but for the date, and body."""
        reader, writer = await asyncio.open_connection(*self.server.addresses[0])
        writer.write("\r\n".join([f"{method} {path} HTTP/1.1", "Host: test", *headers, "", ""]).encode())
        status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
        found = dict(line.split(": ", 1) for line in lines)
        del found["Date"]
        body = await reader.readexactly(0 if method == "HEAD" else int(found.get("Content-Length", 0)))
        writer.close()
        return int(status.split()[1]), found, body


@asynccontextmanager
async def served(
    database: Database, *, ready: bool = True, places: int = 10, deadline_s: float = 60, public: bool = True
) -> AsyncIterator[Served]:
    """A server as an API process has it."""
    metrics, operators = ApiMetrics(), OperatorAuthentication(TOKENS)
    replies = ReplyQueue(reply_parts(metrics, follower(ready), deadline_s=deadline_s))
    donations = CountingDonations(Ledger(database), "USD", operators)
    of_reads = ReadPlaces(Places("ledger pages", places), totals=Places("reads", places))
    short = ShortReads(donations, of_reads, replies, has_public_pages=public)
    app = build(
        Webhook(None, metrics, secrets=("whsec",), livemode=False, hash_key=None),  # type: ignore[arg-type]
        donations,
        replies.parts,
        read_places=of_reads,
        ledger_access=None if public else operators,
    )
    watch = asyncio.create_task(replies.watch_deadline())
    async with HttpServer(
        web.AppRunner(app), LIMITS, short_path=lambda line: short.handler(line) if found.is_short else None
    ) as server:
        await server.listen(host="127.0.0.1", port=0)
        found = Served(server, donations, metrics, of_reads)
        yield found
    watch.cancel()


async def both(site: Served, path: str, headers: Iterable[str] = (), method: str = "GET") -> tuple[Any, bool]:
    """The reply, which is the same with and without the short path, and whether it took it."""
    site.is_short = True
    before = site.donations.long_ways
    reply = await site.ask(path, *headers, method=method)
    was_short = site.donations.long_ways == before
    site.is_short = False
    assert await site.ask(path, *headers, method=method) == reply
    site.is_short = True
    return reply, was_short


@pytest.mark.parametrize("path", [PAGE, TOTAL])
async def test_ordinary_reads_take_the_short_path(database: Database, path: str) -> None:
    """Without parameters and with at most one known tag; status, headers and body are those of aiohttp's handlers."""
    await fill(database, scenarios.seed_example(), TICKET)
    async with served(database) as site:
        (status, headers, body), was_short = await both(site, path)
        assert (status, was_short) == (200, True)
        assert body
        tag = headers["Etag"]
        (status, _, body), was_short = await both(site, path, [f"If-None-Match: {tag}"])
        assert (status, body, was_short) == (304, b"", True)
        (status, _, _), was_short = await both(site, path, [f'If-None-Match: "{"0" * 32}"'])
        assert (status, was_short) == (200, True)
        (status, _, _), was_short = await both(site, path.replace(TICKET, "nowhere"))
        assert (status, was_short) == (404, True)


@pytest.mark.parametrize("path", [PAGE, TOTAL])
async def test_other_reads_go_the_long_way(database: Database, path: str) -> None:
    """They get the same replies with the short path and without it."""
    await fill(database, scenarios.seed_example(), TICKET)
    async with served(database) as site:
        tag = (await site.ask(path))[1]["Etag"]
        for asked, headers, expected in (
            (path, [f"If-None-Match: W/{tag}"], 304),
            (path, [f'If-None-Match: "x", {tag}'], 304),
            (path, ['If-None-Match: "x"', f"If-None-Match: {tag}"], 200),
            (path, ["If-None-Match: *"], 304),
            (path, ["If-None-Match: nonsense"], 200),
            (f"{path}?currency=usd", [], 200),
            (f"{path}?currency=dollars", [], 400),
            (path.replace(TICKET, "123456789"), [], 400),
            (path.replace(TICKET, "a.b"), [], 400),
        ):
            (status, _, _), was_short = await both(site, asked, headers)
            assert (status, was_short) == (expected, False), (asked, headers)
        assert (await both(site, path, method="HEAD"))[0][0] == 200


async def test_pages_of_a_closed_ledger_need_a_token(database: Database) -> None:
    """On no path is one shown without it; totals stay public."""
    await fill(database, scenarios.seed_example(), TICKET)
    async with served(database, public=False) as site:
        assert (await site.ask(PAGE))[0] == 401
        assert (await site.ask(PAGE, "Authorization: Bearer reader-token"))[0] == 200
        assert (await site.ask(TOTAL))[0] == 200


async def test_a_process_that_is_not_ready_reads_nothing(database: Database) -> None:
    """503 with the same headers on both paths."""
    await fill(database, scenarios.seed_example(), TICKET)
    async with served(database, ready=False) as site:
        for path in (PAGE, TOTAL):
            assert (await both(site, path))[0][0] == 503


class BrokenDatabase(Database):
    """Answers nothing until `error` is set, then fails with it."""

    def __init__(self) -> None:
        super().__init__("", pool_size=1, statement_timeout_s=1, connect_timeout_s=1, application_name="")
        self.error: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def fetch(self, _sql: str, _params: Params = (), *, prepare: str | None = None) -> list[Row]:
        """Never returns."""
        await asyncio.shield(self.error)
        raise AssertionError(prepare)


@pytest.mark.parametrize("path", [PAGE, TOTAL])
async def test_a_read_fails_as_it_does_on_the_long_way(path: str) -> None:
    """Without a database, and after its deadline: 503, and its place is free for another."""
    database = BrokenDatabase()
    async with served(database, places=1, deadline_s=0.2) as site:
        for _ in range(2):
            status, headers, _ = await site.ask(path)
            assert (status, headers["Retry-After"]) == (503, "30")
        assert (headers.get("Access-Control-Allow-Origin") == "*") == (path == TOTAL)
        database.error.set_exception(DatabaseUnavailable("connection refused"))
        assert (await both(site, path))[0][0] == 503


async def test_large_pages_have_places_of_their_own(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of more donations than usual wait for each other, and do not delay others."""
    monkeypatch.setattr(limits, "QUEUE_WAIT_S", 60.0)
    await fill(database, scenarios.seed_example(), TICKET)
    async with served(database) as site:
        large = site.places.large_pages
        assert large.take() is None
        assert large.take() is None
        waiting = asyncio.create_task(site.ask(f"{PAGE}?limit=101"))
        for _ in range(3):
            assert (await site.ask(f"{PAGE}?limit=100"))[0] == 200
        assert not waiting.done()
        large.release()
        assert (await waiting)[0] == 200

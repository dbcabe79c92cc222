"""What the public pages and those of the console cost with a million donations and as many entries: whole replies,
compared with the empty handler, and the database's part of them.

`make bench-pages`; ROWS=100000 fills less.
"""

import asyncio
import http.client
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from daemon.pages.console_pages import PAGES
from daemon.reports import daily_sums
from daemon.runtime.http.sessions import COOKIE, Sessions
from daemon.runtime.operator_tokens import parse_tokens
from daemon.simulator.scenarios import generate
from daemon.simulator.sender import encode
from sql.connection import Params, Row
from sql.database import Database
from tests.bench.export import FILL, ROWS
from tests.bench.fill import record, settle
from tests.bench.machine import API, EMPTY, SECRET, Site, Stored, query, site, stored
from tests.support.api_application import application, follower
from tests.support.guard import guarded
from tests.support.pages import page_routes
from tests.support.postgres import running_server

TIMES = 60  # of each page
TOKEN = "token-of-the-benchmark"
TOKENS = f"bench:read+act+export:{sha256(TOKEN.encode()).hexdigest()}"
MAX_DATABASE_MS = 100
# Entries until now, donations without a ticket, failed events, and what operators and the sidecar have left.
MORE = """
UPDATE ledger_entries SET effective_at = effective_at + (SELECT now() - max(effective_at) FROM ledger_entries);
UPDATE stripe_attributions SET ticket_id = NULL WHERE mod(amount_minor, 200) = 0;
INSERT INTO ticket_totals (ticket_id, currency, paid_minor, refunded_minor, disputed_minor, paid, refunded, disputed,
                           partially_refunded)
SELECT coalesce(ticket_id, ''), currency, sum(amount_minor), 0, 0, count(*), 0, 0, 0
FROM stripe_attributions GROUP BY 1, 2;
INSERT INTO stripe_events (id, type, stripe_created, processed_at, livemode, error)
SELECT 'evt_' || n, 'charge.updated', now(), now() - n * interval '10 milliseconds', true,
       CASE WHEN mod(n, 1000) = 0 THEN 'a reason' END FROM generate_series(1, {rows}) n;
INSERT INTO operator_acts (at, actor, action, detail) SELECT now(), 'kim', 'export', 'csv donations'
FROM generate_series(1, {rows} / 10) n;
INSERT INTO health_check_runs (at, kind, ok, state) SELECT now(), 'gate', true, 'passed' FROM generate_series(1, 10000);
"""
# Pages as they are asked for; all others without parameters.
QUERIES = {
    "donations": ("", "?find=story-7", "?status=REFUNDED", "?find={id}"),
    "reports": ("?by=day", "?by=month", "?by=day&ticket=story-7"),
    "exports": ("?kind=donations",),
}
CHART = "/operator/chart.svg?by=day&currency=USD"
PUBLIC = [f"/tickets/story-7{page}?lang=en" for page in ("", "/embed", "/badge.svg", "/picture.png", "/share")]


class Times(NamedTuple):
    """Milliseconds: the median and the time that 95 of 100 replies did not exceed."""

    p50: float
    p95: float

    @classmethod
    def of(cls, took_s: list[float]) -> "Times":
        """Those of some replies."""
        took_ms = sorted(each * 1e3 for each in took_s)
        return cls(took_ms[len(took_ms) // 2], took_ms[len(took_ms) * 95 // 100])


class TimedDatabase(Database):
    """Adds up how long its statements take."""

    spent_s = 0.0

    async def fetch(self, sql: str, params: Params = (), *, prepare: str | None = None) -> list[Row]:
        """As Database does."""
        begun_s = time.perf_counter()
        try:
            return await super().fetch(sql, params, prepare=prepare)
        finally:
            self.spent_s += time.perf_counter() - begun_s


def fill(database: Stored) -> None:
    """Adds the rows, and settles the tables."""
    query(database.url, FILL.read_text(encoding="utf-8").replace("%(rows)s", str(ROWS)))
    query(database.url, MORE.format(rows=ROWS))
    events = [event for each in generate(3, 40, ["story-7"], now=int(time.time())) for event in each.events]
    record(database, map(encode, events))
    asyncio.run(_add_sums(database.url))
    settle(database)


async def _add_sums(url: str) -> None:
    database = _database(url)
    while await daily_sums.add(database, "UTC"):
        pass
    await database.close()


def _database(url: str) -> TimedDatabase:
    return TimedDatabase(
        url, pool_size=2, statement_timeout_s=60, connect_timeout_s=5, application_name="donationd bench"
    )


def paths(url: str) -> dict[str, str]:
    """The addresses of all pages, and of a chart, by their patterns."""
    [(id_,)] = query(url, "SELECT donation_id FROM ledger_entries WHERE kind = 'dispute' ORDER BY seq DESC LIMIT 1")
    patterns = [f"/operator{page.path}{asked}" for page in PAGES for asked in QUERIES.get(page.name, ("",))]
    return {pattern: pattern.replace("{id}", str(id_)) for pattern in [*PUBLIC, *patterns, CHART]}


async def database_ms(url: str, pages: Mapping[str, str], cookie: str) -> dict[str, Times]:
    """The database's time for each page: what a process of its own would wait for, measured in this one."""
    database = _database(url)
    app = application(
        database,
        follower(),
        tokens=parse_tokens(TOKENS),
        signing_secrets=(SECRET,),
        feature_routes=page_routes(database),
    )
    found = {}
    async with TestClient(TestServer(app)) as client:
        for pattern, path in pages.items():
            took_s = []
            for _ in range(TIMES):
                database.spent_s = 0.0
                reply = await client.get(path, headers={"Cookie": cookie})
                assert reply.status == HTTPStatus.OK, (path, await reply.text())
                took_s.append(database.spent_s)
            found[pattern] = Times.of(took_s)
    await database.close()
    return found


def reply_ms(where: Site, path: str, cookie: str = "") -> Times:
    """The times of whole replies, over one connection."""
    took_s = []
    with closing(http.client.HTTPConnection("127.0.0.1", where.port)) as client:
        for _ in range(TIMES):
            begun_s = time.perf_counter()
            client.request("GET", path, headers={"Cookie": cookie})
            reply = client.getresponse()
            reply.read()
            took_s.append(time.perf_counter() - begun_s)
            assert reply.status == HTTPStatus.OK, (path, reply.status)
    return Times.of(took_s)


def session_cookie() -> str:
    """A session of the benchmark's operator."""
    tokens, response = parse_tokens(TOKENS), web.Response()
    Sessions(tokens, (SECRET,)).begin(tokens[0], response)
    return f"{COOKIE}={response.cookies[COOKIE].value}"


def table(
    api: Site, empty: Site, pages: Mapping[str, str], of_database: Mapping[str, Times], cookie: str
) -> Iterator[str]:
    """The lines of the table; the empty handler is measured before each page, because the machine changes."""
    yield "| page | reply p50, ms | p95, ms | ÷ empty p50 | ÷ empty p95 | database p50, ms | p95, ms |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for pattern, path in pages.items():
        bare, whole, waited = reply_ms(empty, "/"), reply_ms(api, path, cookie), of_database[pattern]
        ratios = whole.p50 / bare.p50, whole.p95 / bare.p95
        late = "" if waited.p95 < MAX_DATABASE_MS else " **too slow**"
        yield (
            f"| `{pattern}` | {whole.p50:.1f} | {whole.p95:.1f} | {ratios[0]:.0f} | {ratios[1]:.0f} "
            f"| {waited.p50:.1f} | {waited.p95:.1f}{late} |"
        )


def main() -> None:
    """Prints the table."""
    with (
        guarded(),
        tempfile.TemporaryDirectory() as folder,
        running_server({"max_wal_size": "8GB"}) as server,
        stored(server, "pages", Path(folder)) as database,
    ):
        fill(database)
        pages, cookie = paths(database.url), session_cookie()
        print(f"{ROWS} donations and as many entries and events; {TIMES} times each page\n", flush=True)
        of_database = asyncio.run(database_ms(database.url, pages, cookie))
        settings = {"OPERATOR_TOKENS": TOKENS}
        with (
            site(API, database, Path(folder), settings=settings) as api,
            site(EMPTY, database, Path(folder)) as empty,
        ):
            for line in table(api, empty, pages, of_database, cookie):
                print(line, flush=True)


if __name__ == "__main__":
    main()

"""Reports over HTTP: what the commands print, for programs with a token (SPEC 10, 11)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from daemon.api.endpoints import PREFIX
from daemon.api.operator import OperatorLimits
from daemon.ledger.reader import Moment
from daemon.reports import closings, entry_sums, income, presentation, statistics
from daemon.reports.periods import Period, Unit
from daemon.reports.presentation import Report, as_csv, as_json
from daemon.reports.statistics import Selection
from sql.database import Database
from tests.support.api_application import Client, MakeClient, application, follower
from tests.support.ledger import ask
from tests.support.operators import ACTOR, EXPORTER, READER, TOKENS, bearer
from tests.support.postgres import MakeTemplate
from tests.support.process import WAIT_S
from tests.support.reports import random_events, record, text_of

BERLIN, APIA = "Europe/Berlin", "Pacific/Apia"
REPORTS = f"{PREFIX}reports/"
QUARTER = Period.parse("2024-Q4", BERLIN)
WRITE_S = 0.5  # for which a client of these tests may not read


async def fill(database: Database) -> None:
    events = random_events(12, 80)
    await record(database, events[:200])
    await closings.close(database, QUARTER, "alex")
    await record(database, events[200:])
    await database.fetch("UPDATE ledger_entries SET recorded_at = '2025-12-31'")


@pytest.fixture(scope="module")
def template(make_template: MakeTemplate) -> str:
    """Every test begins with a ledger of which a quarter is closed."""
    return make_template(lambda url: ask(url, fill))


@pytest.fixture(scope="module")
def database_url(shared_url: str) -> str:
    """All tests have the same database, which they leave as it is."""
    return shared_url


@pytest.fixture
async def client(database: Database, aiohttp_client: MakeClient) -> Client:
    """An API with one place for reports, whose days begin in Berlin."""
    limits = OperatorLimits(calls=2, exports=1, write_s=WRITE_S)
    return await aiohttp_client(
        application(database, follower(), tokens=TOKENS, limits=limits, report_time_zone=BERLIN)
    )


async def reports(database: Database) -> dict[str, Report]:
    """What each address must answer."""
    year = Period.parse("2024", APIA)
    return {
        "income?period=2024-Q4": await income.income(database, QUARTER),
        "income?period=2024-q4&asOf=30&ticket=story-1&tz=Europe/Berlin": await income.income(
            database, QUARTER, moment=Moment(30, None), ticket="story-1"
        ),
        "series?by=month": await income.income_series(database, Unit.MONTH, BERLIN),
        "series?by=week&period=2024&tz=Pacific/Apia": await income.income_series(database, Unit.WEEK, APIA, year),
        "restated?period=2024-Q4": await closings.restated(database, QUARTER),
        "restated?period=2024-Q4&version=1&asOf=2026-01-01T00:00:00Z": await closings.restated(
            database, QUARTER, version=1
        ),
        "summary": await statistics.summary(database, Selection(BERLIN)),
        "summary?period=2024&tz=Pacific/Apia&ticket=story-2": await statistics.summary(
            database, Selection(APIA, year, "story-2")
        ),
        "tickets?period=2024&tz=Pacific/Apia": await statistics.tickets(database, Selection(APIA, year)),
        "donors?order=donations&limit=2": await statistics.donors(
            database, Selection(BERLIN), limit=2, by_donations=True
        ),
        "donors": await statistics.donors(database, Selection(BERLIN), limit=20, by_donations=False),
    }


async def test_each_report_is_that_of_the_command(client: Client, database: Database) -> None:
    """As JSON, and as CSV for a client that prefers it, to the byte; X-Ledger-Seq is the head's seq."""
    for form, accept in ((as_json, "application/json"), (as_csv, "text/csv")):
        for address, report in (await reports(database)).items():
            reply = await client.get(f"{REPORTS}{address}", headers=bearer(READER, Accept=accept))
            assert (reply.status, reply.content_type) == (200, accept), await reply.text()
            assert await reply.text() == await text_of(report, form), address
            assert reply.headers["X-Ledger-Seq"] == str(report.head["seq"])
            assert reply.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("name", ["income", "series", "restated", "summary", "tickets", "donors"])
async def test_reports_need_the_scope_read(client: Client, name: str) -> None:
    """A token without it gets 403, no token 401; a report that does not exist is 404."""
    for headers, status in (({}, 401), (bearer(EXPORTER), 403)):
        assert (await client.get(f"{REPORTS}{name}", headers=headers)).status == status
    assert (await client.get(f"{REPORTS}{name}s", headers=bearer(ACTOR))).status == 404
    assert (await client.post(f"{REPORTS}{name}", headers=bearer(ACTOR))).status == 405


@pytest.mark.parametrize(
    ("address", "status", "words"),
    [
        ("income", 400, "period: it is missing (a period such as 2026, 2026-Q4"),
        ("income?period=last", 400, "period: a period such as 2026, 2026-Q4"),
        ("income?period=2024-Q5", 400, "period: a period such as"),
        ("income?period=2023-02-29", 400, "period: there is no such date"),
        ("income?period=1969", 400, "period: a period is within the years 1970 to 2999"),
        ("income?period=2024&tz=Europe/Berlim", 400, "tz: tzdata "),
        ("income?period=2024&tz=../zones", 400, "tz: the IANA name of a time zone"),
        ("income?period=2024&tz=", 400, "tz: the IANA name of a time zone"),
        ("income?period=2024&ticket=story-9", 404, "there is no ticket story-9, and no donation names it"),
        ("income?period=2024&ticket=a.b", 400, "ticket: a ticket id has"),
        ("income?period=2024&asOf=yesterday", 400, "asOf: an entry's number, or a time such as"),
        ("income?period=2024&asOf=1e3", 400, "asOf: an entry's number"),
        ("income?period=2024&asOf=999999", 400, "asOf: there is no entry 999999 yet; the last one is"),
        ("income?period=2024&asOf=2999-01-01", 400, "asOf: this time has not come yet"),
        ("income?period=2024&asOf=9999-12-31T23:59:59-23:59", 400, "asOf: an entry's number"),
        ("income?period=2024&asOf=0001-01-01T00:00:00%2B23:59", 400, "asOf: an entry's number"),
        ("income?period=2024&asOf=2999-01-01T00:00:00%2B23:59", 400, "asOf: this time has not come yet"),
        ("income?period=2024&as_of=1", 400, "unknown parameter (there are: asOf, period, ticket, tz)"),
        ("income?period=2024&period=2025", 400, "period: given more than once"),
        ("series?by=year", 400, "by: one of day, month, week"),
        ("series?by=day&period=2000-01-01..2024-12-31", 400, "by: the series has more than"),
        ("restated?period=2023", 404, "2023 has not been closed"),
        ("restated?period=2024-Q4&tz=UTC", 404, "but in: Europe/Berlin"),
        ("restated?period=2024-Q4&version=2", 404, "has no version 2"),
        ("restated?period=2024-Q4&version=0", 400, "version: the number of a version"),
        ("restated?period=2024-Q4&version=1&asOf=1", 404, "version 1 was closed at entry"),
        ("summary?ticket=story-9", 404, "there is no ticket story-9"),
        ("tickets?ticket=story-1", 400, "unknown parameter (there are: period, tz)"),
        ("donors?limit=1001", 400, "limit: a whole number from 1 to 1000"),
        ("donors?order=name", 400, "order: one of amount, donations"),
    ],
)
async def test_what_is_wrong_is_named(client: Client, *, address: str, status: int, words: str) -> None:
    """A problem document says which parameter it is and what to do."""
    reply = await client.get(f"{REPORTS}{address}", headers=bearer(READER))
    assert reply.status == status, await reply.text()
    assert words in (await reply.json(content_type="application/problem+json"))["detail"]


async def time_out_in_the_database(database: Database, *_: object, **__: object) -> Report:
    await database.fetch("SET statement_timeout = 50; SELECT pg_sleep(60)")
    raise AssertionError


async def time_out_here(*_: object, **__: object) -> Report:
    raise TimeoutError  # as REQUEST_DEADLINE_MS does


@pytest.mark.parametrize("report", [time_out_in_the_database, time_out_here])
async def test_a_report_that_takes_too_long_names_its_command(
    client: Client, monkeypatch: pytest.MonkeyPatch, report: Callable[..., Awaitable[Report]]
) -> None:
    """The command has no such limits."""
    monkeypatch.setattr(statistics, "donors", report)
    reply = await client.get(f"{REPORTS}donors", headers=bearer(READER))
    problem = await reply.json(content_type="application/problem+json")
    assert (reply.status, problem["status"]) == (503, 503)
    assert problem["detail"].endswith("run `donationd report donors`")


async def test_there_is_one_place(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a report is made, another one gets 503 after a second, and other calls are answered."""
    begun, end = asyncio.Event(), asyncio.Event()

    async def slow(*_: object, **__: object) -> Report:
        begun.set()
        await end.wait()
        return Report({"seq": 0}, [])

    monkeypatch.setattr(income, "income", slow)
    first = asyncio.create_task(client.get(f"{REPORTS}income?period=2024", headers=bearer(READER)))
    await begun.wait()
    reply = await client.get(f"{REPORTS}tickets", headers=bearer(READER))
    assert (reply.status, reply.headers["Retry-After"]) == (503, "30")
    assert (await client.get(f"{PREFIX}actions", headers=bearer(READER))).status == 200
    end.set()
    assert (await first).status == 200


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Reports with entries without end; set when no more of them are read."""
    closed = asyncio.Event()

    async def entries(*_: object) -> AsyncIterator[presentation.Row]:
        try:
            while True:
                yield tuple("x" * 100 for _ in closings.ENTRY_COLUMNS)
                await asyncio.sleep(0)
        finally:
            closed.set()

    monkeypatch.setattr(closings, "_entry_rows", entries)
    return closed


async def test_a_client_that_leaves_ends_its_report(client: Client, endless: asyncio.Event) -> None:
    """No more entries are read, and the only place is free again."""
    for _ in range(3):
        endless.clear()
        reply = await client.get(f"{REPORTS}restated?period=2024-Q4", headers=bearer(READER))
        await reply.content.readexactly(100_000)
        reply.close()
        await asyncio.wait_for(endless.wait(), WAIT_S)
    assert (await client.get(f"{REPORTS}tickets", headers=bearer(READER))).status == 200


async def test_a_client_that_reads_slowly_holds_no_place_for_long(client: Client, endless: asyncio.Event) -> None:
    """One that reads a byte at a time does not read a part within the limit: the connection ends, and with it the
    reading of entries; meanwhile other calls are answered.
    """
    reply = await client.get(f"{REPORTS}restated?period=2024-Q4", headers=bearer(READER))
    for _ in range(200):
        if endless.is_set():
            break
        await reply.content.readexactly(1)
        assert (await client.get(f"{PREFIX}actions", headers=bearer(READER))).status == 200
        await asyncio.sleep(WRITE_S / 20)
    await asyncio.wait_for(endless.wait(), WAIT_S)
    assert (await client.get(f"{REPORTS}tickets", headers=bearer(READER))).status == 200


async def test_a_long_report_is_sent_as_it_is_read(
    client: Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many parts, of entries that are read a few at a time, are the whole."""
    whole = await text_of(await closings.restated(database, QUARTER))
    monkeypatch.setattr(entry_sums, "LISTED", 3)
    monkeypatch.setattr(presentation, "ROWS", 2)
    reply = await client.get(f"{REPORTS}restated?period=2024-Q4", headers=bearer(READER))
    assert await reply.text() == whole

"""Reports of income: the journal added up by period, as of any entry (SPEC 11)."""

import csv
import io
import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import tzdata

from daemon.ledger import money
from daemon.ledger.reader import Moment
from daemon.reports import entry_sums, presentation
from daemon.reports.entry_sums import MomentInFuture
from daemon.reports.income import TooManyPeriods, income, income_series
from daemon.reports.periods import Period, Unit
from daemon.reports.presentation import as_csv
from daemon.reports.tickets import UnknownTicket
from sql.database import Database
from tests.support.ledger import ask
from tests.support.postgres import MakeTemplate
from tests.support.reports import json_of, random_events, record, text_of

BERLIN, APIA = "Europe/Berlin", "Pacific/Apia"
FIGURE = {"payment": "payments", "refund": "refunds", "dispute": "disputes"}


async def entries(database: Database) -> list[dict[str, Any]]:
    """The journal, as it is."""
    columns = ("seq", "effective_at", "recorded_at", "amount_minor", "kind", "ticket_id", "currency")
    rows = await database.fetch(f"SELECT {', '.join(columns)} FROM ledger_entries ORDER BY seq")  # noqa: S608 - names
    return [dict(zip(columns, row, strict=True)) for row in rows]


def shown_figures(minor: Counter[str], currency: str) -> dict[str, str]:
    """A row's figures, from sums per kind."""
    sums = {figure: minor[kind] for kind, figure in FIGURE.items()}
    sums["net"] = sums["payments"] - sums["refunds"] - sums["disputes"]
    return {figure: money.major(amount, currency) for figure, amount in sums.items()}


def expected(found: Iterable[dict[str, Any]], *keys: str) -> list[dict[str, Any]]:
    """The rows of a report, added up from entries in the plainest way."""
    sums: defaultdict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for entry in found:
        sums[tuple(entry[key] for key in keys)][entry["kind"]] += entry["amount_minor"]
    names = {"currency": "currency", "ticket_id": "ticket"}
    return [
        {names[key]: value or None for key, value in zip(keys, values, strict=True)} | shown_figures(minor, values[0])
        for values, minor in sorted(sums.items())
        if any(minor.values())
    ]


@pytest.fixture(scope="module")
def template(make_template: MakeTemplate) -> str:
    """Every test begins with random payments."""
    return make_template(lambda url: ask(url, lambda database: record(database, random_events(1, 60))))


@pytest.fixture(autouse=True)
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal is read in many parts, as a long one is."""
    monkeypatch.setattr(entry_sums, "SUMMED", 7)
    monkeypatch.setattr(presentation, "ROWS", 3)


@pytest.mark.parametrize("zone", ["UTC", BERLIN, APIA])
async def test_income_is_the_sum_of_the_entries_of_the_period(database: Database, zone: str) -> None:
    """Per currency, and per currency and ticket, as of any entry: exactly what the entries add up to whose time has a
    date of the period in the zone's calendar.
    """
    all_entries = await entries(database)
    assert len(all_entries) > 60
    rng = random.Random(zone)
    for text in ("2024", "2025-Q1", "2024-07", "2025-W09", str(all_entries[20]["effective_at"].date())):
        period = Period.parse(text, zone)
        for seq in (rng.randrange(len(all_entries)), len(all_entries)):
            found = await json_of(await income(database, period, moment=Moment(seq, None)))
            within = [
                each for each in all_entries[:seq] if is_within(text, each["effective_at"].astimezone(ZoneInfo(zone)))
            ]
            assert found["tickets"] == expected(within, "currency", "ticket_id")
            assert moved(found["totals"]) == expected(within, "currency")
            only = await json_of(await income(database, period, moment=Moment(seq, None), ticket="story-1"))
            assert only["tickets"] == expected(
                (each for each in within if each["ticket_id"] == "story-1"), "currency", "ticket_id"
            )


def is_within(text: str, local: datetime) -> bool:
    """Whether a local time is in a period, by its calendar alone."""
    year, week, _ = local.isocalendar()
    forms = (f"{local:%Y}", f"{local:%Y}-Q{(local.month + 2) // 3}", f"{local:%Y-%m}", f"{local:%Y-%m-%d}")
    return text in (*forms, f"{year}-W{week:02}")


async def test_the_head_names_what_the_report_was_made_from(database: Database) -> None:
    """Zone, tzdata, the period and its instants, the last entry and its time, the release."""
    [*_, last] = await entries(database)
    found = await json_of(await income(database, Period.parse("2024-q4", BERLIN)))
    assert {key: value for key, value in found.items() if not isinstance(value, list)} == {
        "report": "income",
        "release": version("donationd"),
        "tzdata": tzdata.IANA_VERSION,
        "source": "journal",
        "timeZone": BERLIN,
        "period": "2024-Q4",
        "begin": "2024-09-30T22:00:00Z",
        "end": "2024-12-31T23:00:00Z",
        "seq": str(last["seq"]),
        "recordedAt": last["recorded_at"].astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "feesSeq": "0",
        "onlyTicket": None,
    }


async def test_a_time_is_as_good_as_the_entry_that_was_the_last_one_then(database: Database) -> None:
    """As of the time at which an entry was recorded, the report is that of the entry, or of the last one of the same
    batch; as of the time before it, that of the batch before.
    """
    all_entries = await entries(database)
    period = Period.parse("2024", "UTC")
    for at in sorted({each["recorded_at"] for each in all_entries})[::3]:
        last = max(each["seq"] for each in all_entries if each["recorded_at"] == at)
        by_time = await text_of(await income(database, period, moment=Moment(None, at)))
        assert by_time == await text_of(await income(database, period, moment=Moment(last, None)))
    nothing = await json_of(await income(database, period, moment=Moment(None, datetime(2020, 1, 1, tzinfo=UTC))))
    assert (nothing["seq"], nothing["recordedAt"], nothing["tickets"], nothing["totals"]) == ("0", None, [], [])


async def test_a_moment_that_has_not_come_is_refused(database: Database) -> None:
    """An entry that does not exist yet, or a time of the future, would give another report later."""
    last = len(await entries(database))
    period = Period.parse("2024", "UTC")
    with pytest.raises(MomentInFuture, match=f"there is no entry {last + 1} yet; the last one is {last}"):
        await income(database, period, moment=Moment(last + 1, None))
    with pytest.raises(MomentInFuture, match="has not come yet"):
        await income(database, period, moment=Moment(None, datetime(2999, 1, 1, tzinfo=UTC)))


async def test_only_known_tickets_have_a_report(database: Database, database_url: str) -> None:
    """A ticket that was added, or that an entry names, can be asked for; another one is a mistake of typing."""
    await database.fetch("INSERT INTO recording_tickets (id) VALUES ('new-story')")
    period = Period.parse("2024", "UTC")
    assert (await json_of(await income(database, period, ticket="new-story")))["tickets"] == []
    assert (await json_of(await income(database, period, ticket="story-1")))["tickets"] != []
    with pytest.raises(UnknownTicket, match="there is no ticket story-9"):
        await income(database, period, ticket="story-9")


@pytest.mark.parametrize("unit", Unit)
@pytest.mark.parametrize("zone", [BERLIN, APIA])
async def test_a_series_is_the_income_of_each_of_its_periods(database: Database, unit: Unit, zone: str) -> None:
    """Its rows are those of separate reports; a currency without movement has zeros."""
    whole = Period.parse("2024-Q3", zone)
    found = await json_of(await income_series(database, unit, zone, whole))
    assert moved(found["totals"]) == moved((await json_of(await income(database, whole)))["totals"])
    assert len(found["totals"]) > 1
    by_period: defaultdict[str, list[Any]] = defaultdict(list)
    for row in found["series"]:
        by_period[row.pop(unit)].append(row)
    assert next(rows[0]["begin"] for rows in by_period.values()) == "2024-06-30T22:00:00Z" or zone == APIA
    instants = [instant for rows in by_period.values() for instant in (rows[0]["begin"], rows[0]["end"])]
    assert instants[1:-1:2] == instants[2::2]
    for text, rows in list(by_period.items())[1:-1]:
        alone = (await json_of(await income(database, Period.parse(text, zone))))["totals"]
        assert moved({k: v for k, v in row.items() if k not in ("begin", "end")} for row in rows) == moved(alone)
        assert [row["currency"] for row in rows] == [row["currency"] for row in found["totals"]]


def moved(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that are not of zeros."""
    return [row for row in rows if any(float(row[figure]) for figure in FIGURE.values())]


async def test_a_series_of_all_times_begins_with_the_first_entry(database: Database) -> None:
    """Without a period it reaches from the first movement of money to the last one."""
    all_entries = await entries(database)
    months = sorted(f"{each['effective_at'].astimezone(UTC):%Y-%m}" for each in all_entries)
    found = await json_of(await income_series(database, Unit.MONTH, "UTC"))
    assert (found["series"][0]["month"], found["series"][-1]["month"]) == (months[0], months[-1])
    assert moved(found["totals"]) == expected(all_entries, "currency")


def test_without_entries_a_series_is_empty(postgres: str, migrated: str) -> None:
    """It has no period, no rows and no totals."""

    async def series(database: Database) -> dict[str, Any]:
        return await json_of(await income_series(database, Unit.MONTH, "UTC"))

    nothing = ask(postgres.format(name=migrated), series)
    assert (nothing["series"], nothing["totals"], nothing["period"]) == ([], [], None)


async def test_a_series_has_a_limit(database: Database) -> None:
    """A series that is too long to read is refused, with what to do instead."""
    with pytest.raises(TooManyPeriods, match="choose a shorter period or a longer unit"):
        await income_series(database, Unit.DAY, "UTC", Period.parse("2000-01-01..2026-12-31", "UTC"))


async def test_csv_has_the_rows_of_the_json(database: Database) -> None:
    """Each row repeats the head and names its table; a report without rows has one row with its head."""
    for text in ("2024", "1999"):
        report = await income(database, Period.parse(text, BERLIN))
        as_object = await json_of(report)
        lines = await text_of(await income(database, Period.parse(text, BERLIN)), as_csv)
        assert lines.count("\r\n") == lines.count("\n")
        rows = list(csv.DictReader(io.StringIO(lines, newline="")))
        head = {key: value or "" for key, value in as_object.items() if not isinstance(value, list)}
        assert all(row | head == row for row in rows)
        tables = {name: rows_ for name, rows_ in as_object.items() if isinstance(rows_, list)}
        columns = ("table", *report.columns)
        flat = [
            {column: {"table": name, **row}.get(column) or "" for column in columns}
            for name in tables
            for row in tables[name]
        ]
        found = [{k: v for k, v in row.items() if k not in head} for row in rows]
        assert found == (flat or [dict.fromkeys(columns, "")])


async def test_no_text_of_a_csv_is_taken_for_a_formula(database: Database) -> None:
    """A ticket's id may begin with a dash; a spreadsheet gets it with an apostrophe, and a negative amount without."""
    await database.fetch("UPDATE ledger_entries SET ticket_id = '-story', kind = 'refund' WHERE ticket_id = 'story-1'")
    rows = csv.DictReader(io.StringIO(await text_of(await income(database, Period.parse("2024", "UTC")), as_csv)))
    [*found] = [row["net"] for row in rows if row["ticket"] == "'-story"]
    assert found
    assert all(net.startswith("-") for net in found)

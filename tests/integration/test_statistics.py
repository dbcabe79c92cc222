"""Statistics of the paid donations as they are now (SPEC 11)."""

import asyncio
import csv
import io
import json
import statistics as plain
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import pytest
from click.testing import CliRunner

from daemon.cli.main import main
from daemon.ledger import money
from daemon.reports.entry_sums import find_moment
from daemon.reports.periods import Period
from daemon.reports.presentation import as_csv, as_text
from daemon.reports.statistics import Selection, donors, summary, tickets
from daemon.reports.tickets import UnknownTicket
from sql.database import Database
from tests.support.ledger import ask
from tests.support.postgres import MakeTemplate
from tests.support.reports import json_of, random_events, record, text_of

COLUMNS = (
    "id",
    "ticket_id",
    "currency",
    "amount_minor",
    "refunded_minor",
    "disputed_minor",
    "paid_at",
    "donor_email_hash",
)
SELECTIONS = [
    Selection("UTC"),
    Selection("Pacific/Apia", Period.parse("2024-Q3", "Pacific/Apia")),
    Selection("UTC", None, "story-1"),
    Selection("UTC", Period.parse("2025", "UTC"), "story-2"),
]
selections = pytest.mark.parametrize("selection", SELECTIONS)


async def paid(database: Database) -> list[dict[str, Any]]:
    """Every donation that was ever paid."""
    sql = f"SELECT {', '.join(COLUMNS)} FROM stripe_attributions WHERE paid_at IS NOT NULL"  # noqa: S608 - names
    return [dict(zip(COLUMNS, row, strict=True)) for row in await database.fetch(sql)]


def selected(rows: Iterable[dict[str, Any]], selection: Selection) -> list[dict[str, Any]]:
    period = selection.period or Period("", "", 0, 2**40)
    return [
        row
        for row in rows
        if period.begin <= row["paid_at"].timestamp() < period.end
        and (selection.ticket is None or row["ticket_id"] == selection.ticket)
    ]


def groups(rows: Iterable[dict[str, Any]], *keys: str) -> dict[tuple[str, ...], list[dict[str, Any]]]:
    """Rows by some of their columns, '' for null, in order."""
    found: defaultdict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        found[tuple(row[key] or "" for key in keys)].append(row)
    return dict(sorted(found.items()))


def sums(rows: list[dict[str, Any]], currency: str) -> dict[str, str]:
    total = {name: sum(row[f"{name}_minor"] or 0 for row in rows) for name in ("amount", "refunded", "disputed")}
    net = total["amount"] - total["refunded"] - total["disputed"]
    minor = {"paid": total["amount"], "refunded": total["refunded"], "disputed": total["disputed"], "net": net}
    return {name: money.major(amount, currency) for name, amount in minor.items()}


@pytest.fixture(scope="module")
def template(make_template: MakeTemplate) -> str:
    """Every test begins with random donations."""
    return make_template(lambda url: ask(url, lambda database: record(database, random_events(11, 120))))


@pytest.fixture(scope="module")
def database_url(shared_url: str) -> str:
    """All tests have the same database, which they leave as it is."""
    return shared_url


@selections
async def test_the_summary_is_that_of_the_donations(database: Database, selection: Selection) -> None:
    """Number, sums, average, median and largest amount of each currency, exactly; averages also to the minor unit."""
    every = await paid(database)
    rows = selected(every, selection)
    found = await json_of(await summary(database, selection))
    expected = []
    for (currency,), of in groups(rows, "currency").items():
        unit = 10 ** money.exponent(currency)
        amounts = [row["amount_minor"] for row in of if row["amount_minor"] is not None]
        average, median = Fraction(sum(amounts), len(amounts)), plain.median([Fraction(each) for each in amounts])
        expected.append(
            {
                "currency": currency or None,
                "donations": str(len(of)),
                **sums(of, currency),
                "average": str(average / unit),
                "averageRounded": money.major(half_up(average), currency),
                "median": str(median / unit),
                "medianRounded": money.major(half_up(median), currency),
                "largest": money.major(max(amounts), currency),
            }
        )
    assert found["currencies"] == expected
    assert len(expected) > 1
    assert found["seq"] == str((await find_moment(database, None)).seq)
    assert found["source"] == "donations"


def half_up(value: Fraction) -> int:
    """Rounded as people round amounts."""
    whole, rest = divmod(value, 1)
    return int(whole) + (rest >= Fraction(1, 2))


@selections
async def test_donors_are_counted_by_hash(database: Database, selection: Selection) -> None:
    """New ones gave for the first time in the period, returning ones before it, wherever that was; repeat donors have
    several of the selected donations.
    """
    every = await paid(database)
    rows = selected(every, selection)
    first = {hash_: min(row["paid_at"] for row in of) for (hash_,), of in groups(every, "donor_email_hash").items()}
    counts = Counter(row["donor_email_hash"] for row in rows if row["donor_email_hash"])
    begin = selection.period and datetime.fromtimestamp(selection.period.begin, UTC)
    new = sum(first[hash_] >= begin for hash_ in counts) if begin else None
    assert (await json_of(await summary(database, selection)))["donors"] == [
        {
            "donors": str(len(counts)),
            "newDonors": None if new is None else str(new),
            "returningDonors": None if new is None else str(len(counts) - new),
            "repeatDonors": str(sum(count > 1 for count in counts.values())),
            "donationsWithoutHash": str(sum(not row["donor_email_hash"] for row in rows)),
        }
    ]
    assert counts


@pytest.mark.parametrize("selection", SELECTIONS[:2])
async def test_tickets_are_ranked_by_what_they_got(database: Database, selection: Selection) -> None:
    """Each ticket of each currency, with what is left of its donations, the most first; no ticket is null."""
    rows = selected(await paid(database), selection)
    found = await json_of(await tickets(database, selection))
    expected = {
        (currency or None, ticket or None): {"donations": str(len(of)), **sums(of, currency)}
        for (currency, ticket), of in groups(rows, "currency", "ticket_id").items()
    }
    figures = ("donations", "paid", "refunded", "disputed", "net")
    assert {
        (row["currency"], row["ticket"]): {name: row[name] for name in figures} for row in found["tickets"]
    } == expected
    order = [(row["currency"] or "", -Fraction(row["net"])) for row in found["tickets"]]
    assert order == sorted(order)


@pytest.mark.parametrize("by_donations", [False, True])
@selections
async def test_donors_are_ranked(database: Database, selection: Selection, by_donations: bool) -> None:
    """The first of each currency, by net sum or by number of donations; ties in the order of the hashes."""
    rows = [row for row in selected(await paid(database), selection) if row["donor_email_hash"]]
    found = await json_of(await donors(database, selection, limit=3, by_donations=by_donations))
    expected = []
    for (currency,), of in groups(rows, "currency").items():
        ranked = []
        for (hash_,), given in groups(of, "donor_email_hash").items():
            figures = sums(given, currency)
            key = (-len(given) if by_donations else 0, -Fraction(figures["net"]), hash_)
            ranked.append(
                (key, {"currency": currency or None, "emailHash": hash_, "donations": str(len(given)), **figures})
            )
        expected += [row for _, row in sorted(ranked, key=lambda each: each[0])[:3]]
    assert [{k: v for k, v in row.items() if not k.endswith("At")} for row in found["donors"]] == expected
    by_donor = groups(rows, "currency", "donor_email_hash")
    totals = {row["currency"]: (row["donors"], row["repeatDonors"]) for row in found["totals"]}
    for (currency,) in groups(rows, "currency"):
        of_currency = [given for key, given in by_donor.items() if key[0] == currency]
        repeat = sum(len(given) > 1 for given in of_currency)
        assert totals[currency or None] == (str(len(of_currency)), str(repeat))


def test_a_ledger_without_donations_has_statistics(postgres: str, migrated: str) -> None:
    """Each report has its head, and no figures."""
    ask(postgres.format(name=migrated), check_no_figures)


async def check_no_figures(database: Database) -> None:
    whole = Selection("UTC")
    for report, name in (
        (await summary(database, whole), "currencies"),
        (await tickets(database, whole), "tickets"),
        (await donors(database, whole, limit=1, by_donations=False), "donors"),
    ):
        found = await json_of(report)
        assert found[name] == []
        assert (found["seq"], found["period"], found["begin"]) == ("0", None, None)
    with pytest.raises(UnknownTicket):
        await summary(database, Selection("UTC", None, "story-9"))


async def test_people_see_rounded_averages_only(database: Database) -> None:
    """A text leaves exact fractions out; CSV and JSON have both."""
    text = await text_of(await summary(database, Selection("UTC")), as_text)
    assert "average rounded" in text
    assert not any("/" in line for line in text.splitlines() if line.startswith(("EUR", "USD")))
    rows = csv.DictReader(io.StringIO(await text_of(await summary(database, Selection("UTC")), as_csv), newline=""))
    assert any("/" in row["average"] and row["averageRounded"] for row in rows)


async def test_the_commands_print_them(database: Database, database_url: str) -> None:
    """`donationd report summary`, `tickets` and `donors` in every form; an unknown ticket is exit status 1."""

    async def run(*words: str) -> Any:
        return await asyncio.to_thread(CliRunner().invoke, main, ["report", *words], env={"DATABASE_URL": database_url})

    for command in (
        ["summary", "--ticket", "story-1"],
        ["tickets"],
        ["donors", "--limit", "2", "--order", "donations"],
    ):
        done = await run(*command, "--period", "2024", "--tz", "Europe/Berlin", "--json")
        assert (done.exit_code, json.loads(done.stdout)["begin"]) == (0, "2023-12-31T23:00:00Z")
        assert (await run(*command, "--csv")).stdout.startswith("report,release,tzdata,source,timeZone,period,")
        assert (await run(*command)).stdout.startswith("report:")
    done = await run("summary", "--ticket", "story-9")
    assert done.exit_code == 1
    assert "there is no ticket story-9, and no donation names it: `donationd tickets list`" in done.stderr

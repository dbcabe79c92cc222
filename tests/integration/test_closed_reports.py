"""Closed reports: a period as it was filed, the period now, and every reason for the difference (SPEC 11)."""

import asyncio
import csv
import hashlib
import io
import json
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from importlib.metadata import version
from typing import Any

import pytest
from click.testing import CliRunner, Result

from daemon.cli.main import main
from daemon.ledger import audit, operator_actions
from daemon.ledger.facts import owners
from daemon.ledger.reader import Ledger, Moment
from daemon.ledger.recorder import Recorder
from daemon.reports import closings, entry_sums
from daemon.reports.closings import CannotClose, close, restated
from daemon.reports.entry_sums import find_moment
from daemon.reports.head import Origin
from daemon.reports.income import income
from daemon.reports.periods import Period
from sql.database import Database
from tests.support.reports import END, json_of, random_events, record, text_of

BERLIN = "Europe/Berlin"
QUARTER = Period.parse("2024-Q4", BERLIN)
FIGURE = {"payment": "payments", "refund": "refunds", "dispute": "disputes"}

Run = Callable[..., Awaitable[Result]]


@pytest.fixture
def run(database_url: str) -> Run:
    """Runs `donationd report …` in the test's database, as alex."""

    async def report(*words: str) -> Result:
        environ = {"DATABASE_URL": database_url, "USER": "alex", "LOGNAME": "alex", "REPORT_TIME_ZONE": "UTC"}
        return await asyncio.to_thread(CliRunner().invoke, main, ["report", *words], env=environ)

    return report


Amounts = defaultdict[tuple[Any, ...], Decimal]


def figures(rows: list[dict[str, Any]], *keys: str) -> Amounts:
    """The amounts of a table, by its other columns and the figure's name."""
    found = Amounts(Decimal)
    for row in rows:
        for figure in FIGURE.values():
            found[(*(row[key] for key in keys), figure)] += Decimal(row[figure])
    return found


@pytest.mark.parametrize("period", [QUARTER, Period.parse("2024-01-01..2025-12-31", BERLIN)])
async def test_the_differences_are_the_sums_of_the_entries(database: Database, period: Period) -> None:
    """As filed is what the report was; now is what the report is; the difference of both is exactly what the listed
    entries add up to, per currency and per ticket; and each of them is one of the journal's, of the period.
    """
    events = random_events(5, 150)
    await record(database, events[: len(events) // 2])
    closing = await close(database, period, "alex")
    await record(database, events[len(events) // 2 :])
    found = await json_of(await restated(database, period))
    filed = await json_of(await income(database, period, moment=Moment(closing.seq, None)))
    now = await json_of(await income(database, period))
    assert (found["filedTotals"], found["filedTickets"]) == (filed["totals"], filed["tickets"])
    assert figures(found["nowTotals"], "currency") == figures(now["totals"], "currency")
    assert found["nowTickets"] == now["tickets"]
    listed = found["entries"]
    assert len(listed) > 20
    for keys, table in ((("currency",), "Totals"), (("currency", "ticket"), "Tickets")):
        sums = Amounts(Decimal)
        for entry in listed:
            sums[(*(entry[key] for key in keys), FIGURE[entry["kind"]])] += Decimal(entry["amount"])
        difference = figures(found[f"now{table}"], *keys)
        for key, amount in figures(found[f"filed{table}"], *keys).items():
            difference[key] -= amount
        nonzero = {key: amount for key, amount in difference.items() if amount}
        assert nonzero
        assert {key: amount for key, amount in sums.items() if amount} == nonzero
        shown = figures(found[f"difference{table}"], *keys)
        assert {key: amount for key, amount in shown.items() if amount} == nonzero
    rows = await database.fetch(
        "SELECT seq, donation_id, object_id, kind, cause, recorded_at FROM ledger_entries"
        " WHERE seq > %s AND effective_at >= to_timestamp(%s) AND effective_at < to_timestamp(%s) ORDER BY seq",
        [closing.seq, period.begin, period.end],
    )
    names = ("entry", "donation", "object", "kind", "cause", "entryRecordedAt")
    assert [tuple(entry[name] for name in names) for entry in listed] == [
        (str(seq), *texts, at.astimezone(UTC).isoformat().replace("+00:00", "Z")) for seq, *texts, at in rows
    ]


async def test_reports_are_the_same_at_any_later_time(database: Database, run: Run) -> None:
    """With the same arguments and --as-of, `income`, `series` and `restated` print the same bytes in every form, and
    `close` keeps the same hash, after 10,000 further events, refunds and disputes of donations that were reported on,
    new closings, and the erasure of every donor.
    """
    events = random_events(6, 800)
    await record(database, events[:2000], batch=200)
    closing = await close(database, QUARTER, "alex")
    await record(database, events[2000:3000], batch=200)
    seq = str((await find_moment(database, None)).seq)
    zone = ("--tz", BERLIN)
    commands = [
        ("income", "--period", "2024-Q4", *zone, "--as-of", seq),
        ("income", "--period", "2024-Q4", *zone, "--as-of", str(closing.seq), "--ticket", "story-1"),
        ("series", "--by", "week", *zone, "--as-of", seq),
        ("restated", "2024-Q4", *zone, "--as-of", seq),
        ("restated", "2024-Q4", *zone, "--version", "1", "--as-of", seq),
    ]
    forms: list[tuple[str, ...]] = [(), ("--json",), ("--csv",)]
    before = [(await run(*command, *form)).stdout_bytes for command in commands for form in forms]
    assert all(before)
    known = set(await ids_of(database))
    await close(database, QUARTER, "alex")
    rest = events[3000:]
    assert len(rest) > 10_000
    await record(database, rest, batch=200)
    await erase_everyone(database)
    await close(database, QUARTER, "alex")
    changed = await database.fetch(
        "SELECT DISTINCT kind FROM ledger_entries WHERE seq > %s AND donation_id = ANY (%s)", [int(seq), list(known)]
    )
    assert {kind for (kind,) in changed} == {"payment", "refund", "dispute"}
    assert [(await run(*command, *form)).stdout_bytes for command in commands for form in forms] == before
    again = await close(database, QUARTER, "berta", moment=Moment(closing.seq, None))
    assert again.sha256 == closing.sha256


async def ids_of(database: Database) -> list[str]:
    return [id_ for (id_,) in await database.fetch("SELECT id FROM stripe_attributions WHERE paid_at IS NOT NULL")]


async def erase_everyone(database: Database) -> None:
    """Erases the donor of each paid donation."""
    ledger, actions = Ledger(database), []
    for id_ in await ids_of(database):
        facts = await ledger.facts_of(id_)
        assert facts and id_ in owners(facts)
        actions.append(operator_actions.erase(facts, id_, actor="alex", at_us=END * 1_000_000))
    for first in range(0, len(actions), 100):
        await Recorder(database).record(actions[first : first + 100])
    named = "donor_last_name IS NOT NULL OR donor_email_hash IS NOT NULL"
    assert await database.fetch(f"SELECT FROM stripe_attributions WHERE {named}") == []


async def test_the_hash_is_that_of_what_is_printed(database: Database, run: Run) -> None:
    """`close` names the command whose output has the hash that it kept."""
    await record(database, random_events(7, 30))
    done = await run("close", "2024-Q4", "--tz", BERLIN)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"2024-Q4 in {BERLIN}, version 1: closed at entry ")
    assert " by alex at 20" in done.stdout
    [_, command] = done.stderr.split("donationd report ")
    printed = (await run(*command.split())).stdout_bytes
    assert done.stdout.rstrip().endswith(f"SHA-256 {hashlib.sha256(printed).hexdigest()}")


async def test_closing_is_on_record(database: Database, run: Run) -> None:
    """Each version is kept with who closed it and when, and is an action of the audit log and of its chain."""
    await record(database, random_events(7, 10))
    for actor in ("alex", "berta"):
        assert (await run("close", "2024-Q4", "--by", actor)).exit_code == 0
    shown = (await run("closed", "2024-q4", "--json")).stdout.splitlines()
    found = [json.loads(line) for line in shown]
    assert [(each["version"], each["closedBy"], each["timeZone"]) for each in found] == [
        (1, "alex", "UTC"), (2, "berta", "UTC")
    ]  # fmt: skip
    actions = await audit.actions(database, 10)
    assert [(each.by, each.action, each.detail, each.number) for each in actions] == [
        ("berta", "close", "2024-Q4 in UTC, version 2", 2),
        ("alex", "close", "2024-Q4 in UTC, version 1", 1),
    ]
    assert [each.at.astimezone(UTC).isoformat() for each in actions] == [each["closedAt"] for each in reversed(found)]
    assert (await run("closed", "2023")).stderr == "no such period has been closed\n"


async def test_a_period_that_has_not_ended_is_not_closed(database: Database, run: Run) -> None:
    """Neither today, nor as of an entry that was followed by another one before the period ended."""
    await record(database, random_events(7, 10))
    this_year = f"{datetime.now(UTC):%Y}"
    done = await run("close", this_year)
    assert (done.exit_code, done.stderr) == (1, f"Error: {this_year} has not ended yet in UTC\n")
    await database.fetch("UPDATE ledger_entries SET recorded_at = to_timestamp(%s) WHERE seq <= 8", [QUARTER.end - 1])
    with pytest.raises(CannotClose, match="entry 8 was recorded before its end"):
        await close(database, QUARTER, "alex", moment=Moment(7, None))
    assert (await close(database, QUARTER, "alex", moment=Moment(8, None))).seq == 8
    assert (await close(database, QUARTER, "alex", moment=Moment(None, datetime.now(UTC)))).seq > 8
    assert len(await closings.closings(database)) == 2


async def test_the_version_that_is_restated_does_not_change_with_later_closings(database: Database) -> None:
    """Without --as-of and --version it is the newest one. As of an entry it is the newest of those that were closed
    before that entry was recorded, whatever is closed later.
    """
    events = random_events(8, 60)
    await record(database, events[:100])
    first = await close(database, QUARTER, "alex")
    await record(database, events[100:200])
    middle = (await find_moment(database, None)).seq
    assert middle > first.seq
    second = await close(database, QUARTER, "alex")
    older = await close(database, QUARTER, "alex", moment=Moment(first.seq, None))
    assert [each.version for each in (first, second, older)] == [1, 2, 3]

    async def version(number: int | None = None, moment: Moment | None = None) -> str:
        found = (await json_of(await restated(database, QUARTER, version=number, moment=moment)))["version"]
        assert isinstance(found, str)
        return found

    assert (await version(), await version(2), await version(moment=Moment(middle, None))) == ("3", "2", "1")
    await record(database, events[200:])
    assert await version(moment=Moment(middle + 1, None)) == "3"
    assert await version(moment=Moment(middle, None)) == "1"


async def test_a_time_after_a_closing_has_its_version(database: Database, run: Run) -> None:
    """Also if nothing was recorded since. A version that is added later makes no difference to a time before it."""
    await record(database, random_events(8, 30))
    before = datetime.now(UTC)
    await close(database, QUARTER, "alex")
    between = datetime.now(UTC)
    await close(database, QUARTER, "alex")
    for time, expected in ((between, "1"), (datetime.now(UTC), "2")):
        report = await restated(database, QUARTER, moment=Moment(None, time))
        assert (await json_of(report))["version"] == expected
    done = await run("restated", "2024-Q4", "--tz", BERLIN, "--as-of", before.isoformat())
    assert (done.exit_code, "had not been closed at this time" in done.stderr) == (1, True)


async def test_what_was_not_closed_cannot_be_restated(database: Database, run: Run) -> None:
    """Each reason is a sentence that names what there is, and exit status 1."""
    await record(database, random_events(8, 30))

    async def problem(*words: str) -> str:
        done = await run("restated", "2024-Q4", *words)
        assert (done.exit_code, done.stdout) == (1, "")
        return done.stderr

    assert await problem() == "Error: 2024-Q4 has not been closed\n"
    closing = await close(database, QUARTER, "alex")
    assert f"in the time zone UTC, but in: {BERLIN}" in await problem()
    assert "has no version 2" in await problem("--tz", BERLIN, "--version", "2")
    assert (
        f"had not been closed before entry {closing.seq} was recorded: give a later moment, or a version"
        in await problem("--tz", BERLIN, "--as-of", str(closing.seq))
    )
    too_early = ("--tz", BERLIN, "--version", "1", "--as-of", "3")
    assert f"version 1 was closed at entry {closing.seq}, after entry 3" in await problem(*too_early)
    assert "there is no entry 999999 yet" in await problem("--tz", BERLIN, "--as-of", "999999")


async def test_a_journal_that_was_changed_is_noticed(database: Database, run: Run) -> None:
    """If its entries no longer give what was filed, the report says so, and the exit status is 1."""
    await record(database, random_events(9, 100))
    closing = await close(database, QUARTER, "alex")
    done = await run("restated", "2024-Q4", "--tz", BERLIN, "--json")
    assert (done.exit_code, json.loads(done.stdout)["filedConfirmed"]) == (0, True)
    [(seq,)] = await database.fetch(
        "UPDATE ledger_entries SET amount_minor = amount_minor + 1 WHERE seq = (SELECT min(seq) FROM ledger_entries"
        " WHERE effective_at >= to_timestamp(%s) AND effective_at < to_timestamp(%s)) RETURNING seq",
        [QUARTER.begin, QUARTER.end],
    )
    assert seq <= closing.seq
    done = await run("restated", "2024-Q4", "--tz", BERLIN, "--json")
    assert (done.exit_code, json.loads(done.stdout)["filedConfirmed"]) == (1, False)
    assert f"entries up to {closing.seq} do not give the report that was filed" in done.stderr


async def test_another_release_and_other_rules_of_zones_show_what_was_filed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The filed figures are those of the instants that were reported on then, confirmed under the names of the release
    and of the rules that they were filed with; the head says where today's rules differ.
    """
    await record(database, random_events(9, 30))
    with monkeypatch.context() as former:
        former.setattr(closings, "HERE", Origin("0.0.9", "2019a"))
        await close(database, QUARTER, "alex")
    found = await json_of(await restated(database, QUARTER))
    assert (found["release"], found["filedRelease"], found["filedTzdata"]) == (version("donationd"), "0.0.9", "2019a")
    assert (found["filedConfirmed"], found["sameInstants"]) == (True, True)
    moved = QUARTER._replace(begin=QUARTER.begin + 3600)
    found = await json_of(await restated(database, moved))
    assert (found["filedConfirmed"], found["sameInstants"]) == (True, False)
    assert found["begin"] == "2024-09-30T22:00:00Z"


async def test_two_who_close_at_the_same_time_make_two_versions(database: Database) -> None:
    """Versions are counted under the ledger's lock."""
    await record(database, random_events(9, 10))
    found = await asyncio.gather(*(close(database, QUARTER, actor) for actor in ("alex", "berta", "carl")))
    assert sorted(each.version for each in found) == [1, 2, 3]
    assert len({each.sha256 for each in found}) == 1


async def test_entries_are_read_in_parts(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, the report lists all of them in their order, in every form."""
    events = random_events(10, 60)
    await close(database, QUARTER, "alex")
    await record(database, events)
    whole = await text_of(await restated(database, QUARTER))
    monkeypatch.setattr(entry_sums, "LISTED", 3)
    monkeypatch.setattr(entry_sums, "SUMMED", 5)
    assert await text_of(await restated(database, QUARTER)) == whole


async def test_csv_names_the_table_of_each_row(database: Database, run: Run) -> None:
    """One table for spreadsheets: what was filed, what is known now, the differences and the entries."""
    events = random_events(10, 60)
    await close(database, QUARTER, "alex")
    await record(database, events)
    done = await run("restated", "2024-Q4", "--tz", BERLIN, "--csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout_bytes.decode(), newline="")))
    as_object = json.loads((await run("restated", "2024-Q4", "--tz", BERLIN, "--json")).stdout)
    tables = {name: len(each) for name, each in as_object.items() if isinstance(each, list) and each}
    assert Counter(row["table"] for row in rows) == tables
    assert {row["filedSha256"] for row in rows} == {as_object["filedSha256"]}
    assert {row["seq"] for row in rows} == {str(as_object["seq"])}


async def test_a_period_that_is_none_is_wrong_usage(run: Run) -> None:
    """Exit status 2, with examples, before anything is asked of the database."""
    for words in (("close", "2024-Q5"), ("restated", "last year"), ("income", "--period", "24")):
        done = await run(*words)
        assert done.exit_code == 2
        assert "2026-Q4" in done.stderr
    done = await run("income", "--period", "2024", "--tz", "Europe/Berlim")
    assert (done.exit_code, "did you mean Europe/Berlin?" in done.stderr) == (2, True)
    done = await run("income", "--period", "2024", "--as-of", "yesterday")
    assert done.exit_code == 2

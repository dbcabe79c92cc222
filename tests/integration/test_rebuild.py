"""Rows that older rules derived: `donationd rebuild` brings them, and their totals, to today's rules."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import cache
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from daemon.cli.main import main
from daemon.ledger import donation_objects, projection
from daemon.ledger.changes import ReceivedEvent
from daemon.ledger.donation import Donation, Status
from daemon.ledger.rebuild import count_rows, rebuild, set_wrong_totals
from daemon.ledger.recorder import Recorder
from daemon.ledger.stripe_events import read
from daemon.ledger.verification import verify
from daemon.simulator import scenarios, sender
from sql import load
from sql.connection import Row
from sql.database import Database
from sql.migrate import discover
from sql.snapshot import snapshot
from tests.support.ledger import ask
from tests.support.postgres import Clone, MakeTemplate

NOW = 1_760_000_000
TICKETS = ("story-1", "story-2")
ROWS = "SELECT * FROM stripe_attributions ORDER BY id"
# A row without what says how often and by which rules it was derived.
SHOWN = """
SELECT id, root, facts::jsonb::text, ticket_id, status, amount_minor, currency, refunded_minor, disputed_minor,
       created_at, paid_at, refunded_at, donor_last_name, donor_country, donor_email_hash, session_id, charge_id,
       account, subscription_id
FROM stripe_attributions ORDER BY id
"""
TOTALS = "SELECT * FROM ticket_totals WHERE paid + refunded + disputed > 0 ORDER BY 1, 2"


def entries(generated: Sequence[scenarios.Scenario], seed: int) -> list[ReceivedEvent]:
    """All events of these scenarios, out of order and some twice."""
    events = scenarios.shuffled(generated, seed, duplicates=0.3)
    return [ReceivedEvent(read(sender.encode(event), livemode=False, hash_key=None)) for event in events]


def use_former_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules of an earlier release: half of what is lost in a dispute, and no refunds at all."""
    derive = projection.derive

    def former(id_: str, objects: donation_objects.Objects) -> Donation:
        donation = derive(id_, objects)
        return msgspec.structs.replace(
            donation,
            disputed=donation.disputed // 2,
            refunded=0,
            refunded_at=None,
            status=Status.PAID if donation.status == Status.REFUNDED else donation.status,
        )

    monkeypatch.setattr("daemon.ledger.projection.derive", former)
    monkeypatch.setattr("daemon.ledger.journal.entries", lambda _donation, _objects: [])
    monkeypatch.setattr("daemon.ledger.projection.donation_ids", lambda _facts: set())
    monkeypatch.setattr("daemon.ledger.projection.RULES_VERSION", 0)


async def record(database: Database, wanted: Sequence[ReceivedEvent]) -> None:
    """In batches of twenty."""
    for begin in range(0, len(wanted), 20):
        await Recorder(database).record(wanted[begin : begin + 20])


async def ledger(database: Database) -> tuple[list[Row], list[Row]]:
    """All rows and totals."""
    return await database.fetch(SHOWN), await database.fetch(TOTALS)


def differences(url: str) -> list[str]:
    """What `donationd verify` reports."""
    with snapshot(url, "donationd test") as moment:
        return list(verify(moment, lambda _done: None))


@cache
def all_entries() -> list[ReceivedEvent]:
    """The events of eighty payments."""
    return entries(scenarios.generate(7, 80, TICKETS, now=NOW), 1)


@pytest.fixture(scope="module")
def filled(make_template: MakeTemplate) -> str:
    """A database with what today's rules make of them."""
    return make_template(lambda url: ask(url, lambda database: record(database, all_entries())))


@pytest.fixture(scope="module")
def right(postgres: str, filled: str) -> tuple[list[Row], list[Row]]:
    """Its ledger."""
    return ask(postgres.format(name=filled), ledger)


@pytest.fixture
def filled_url(clone: Clone, filled: str) -> Iterator[str]:
    """The same in a database of the test's own."""
    with clone(filled) as url:
        yield url


@pytest.fixture
async def filled_ledger(filled_url: str) -> AsyncIterator[Database]:
    """The same, through our driver."""
    database = Database(
        filled_url, pool_size=4, statement_timeout_s=10, connect_timeout_s=5, application_name="donationd test"
    )
    yield database
    await database.close()


async def test_rebuilt_rows_and_totals_are_those_of_the_new_rules(
    database: Database, database_url: str, right: tuple[list[Row], list[Row]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Donations that former rules stored are, rebuilt, what today's rules would have made of the same events."""
    with monkeypatch.context() as former:
        use_former_rules(former)
        await record(database, all_entries())
    assert differences(database_url) != []
    stored = await count_rows(database)
    assert stored == len([row for row in right[0] if row[2] is not None])
    steps: list[int] = []
    assert await rebuild(database, steps.append) == stored == sum(steps)
    assert await ledger(database) == right
    assert differences(database_url) == []
    assert (await count_rows(database), await rebuild(database, steps.append)) == (0, 0)


async def test_later_events_have_their_effect_whenever_the_rows_are_rebuilt(
    database: Database, database_url: str, right: tuple[list[Row], list[Row]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the events under former rules, then the rest beside two rebuilds and a writer that still runs the former
    rules: after a last rebuild every row and total is right."""
    events = all_entries()
    half = len(events) // 2
    with monkeypatch.context() as former:
        use_former_rules(former)
        await record(database, events[:half])
    # The release before wrote neither of the two columns: its statement leaves them as they are.
    await database.fetch("UPDATE stripe_attributions SET version = version + 1 WHERE root = id")
    await asyncio.gather(
        record(database, events[half:]),
        rebuild(database, lambda _done: None),
        rebuild(database, lambda _done: None),
        record(database, events[:half]),
    )
    await rebuild(database, lambda _done: None)
    assert await ledger(database) == right
    assert differences(database_url) == []


async def test_a_row_that_the_former_release_writes_again_counts_as_older(filled_ledger: Database) -> None:
    """During a rolling reload the former release writes rows without touching the columns that it does not know."""
    assert await count_rows(filled_ledger) == 0
    await filled_ledger.fetch(
        "UPDATE stripe_attributions SET version = version + 1, refunded_minor = 0, disputed_minor = 0"
        " WHERE id = (SELECT min(id) FROM stripe_attributions WHERE refunded_minor > 0)"
    )
    assert await count_rows(filled_ledger) == 1
    assert await rebuild(filled_ledger, lambda _done: None) == 1


async def test_a_row_that_lost_its_object_keeps_no_other_from_being_rebuilt(
    filled_ledger: Database, filled_url: str
) -> None:
    """A row that its id no longer leads to stays older, and `verify` reports it; all others are derived again."""
    await filled_ledger.fetch("UPDATE stripe_attributions SET rules_version = 0")
    await filled_ledger.fetch("DELETE FROM stripe_objects WHERE id = (SELECT min(root) FROM stripe_attributions)")
    await rebuild(filled_ledger, lambda _done: None)
    assert await count_rows(filled_ledger) == 1
    assert [line for line in differences(filled_url) if "kept by no row" in line] != []


async def test_facts_in_the_form_of_the_first_rules_are_read(database: Database, database_url: str) -> None:
    """A dispute that the first release stored as a number of its own counts on, and later events move it."""
    body = {"id": "ch_1", "amount": 5000, "amount_captured": 5000, "captured": True, "paid": True}
    paid = {**body, "status": "succeeded", "currency": "usd", "created": NOW, "metadata": {"ticketId": "story-1"}}
    await record(database, [ReceivedEvent(_read("charge.succeeded", paid, NOW))])
    dispute = {"dp_1": {"seen": NOW, "charge": [NOW, "ch_1"], "state": [NOW + 9, [3, 5000]]}}
    await database.fetch(
        "UPDATE stripe_attributions SET facts = jsonb_set(facts::jsonb, '{dp}', %s)::json, rules_version = 0",
        [json.dumps(dispute)],
    )
    await database.fetch("INSERT INTO stripe_objects VALUES ('dp_1', 'ch_1')")
    assert await rebuild(database, lambda _done: None) == 1
    assert await database.fetch("SELECT status, disputed_minor FROM stripe_attributions") == [("DISPUTED", 5000)]
    won = {"id": "dp_1", "amount": 5000, "status": "won", "charge": "ch_1"}
    await record(database, [ReceivedEvent(_read("charge.dispute.closed", won, NOW + 20))])
    assert await database.fetch("SELECT status, disputed_minor FROM stripe_attributions") == [("PAID", 0)]
    assert differences(database_url) == []


def test_sql_and_python_agree_on_the_version_of_the_rules() -> None:
    """The index of rows of older rules, and what asks it, name today's version; a new version needs a new index."""
    newest = "\n".join(migration.sql for migration in discover())
    index = re.findall(r"ON stripe_attributions \(id\) WHERE rules_version < (\d+)", newest)[-1]
    [asked] = re.findall(r"rules_version < (\d+)", load("has_older_rows"))
    assert int(index) == int(asked) == projection.RULES_VERSION


def _read(event_type: str, stripe_object: dict[str, object], created: int) -> Any:
    event = {"id": f"evt_{created}", "type": event_type, "created": created, "livemode": False}
    return read(sender.encode({**event, "data": {"object": stripe_object}}), livemode=False, hash_key=None)


async def test_an_interrupted_rebuild_goes_on_where_it_stopped(
    filled_ledger: Database, right: tuple[list[Row], list[Row]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after a batch, the next run derives only the rows that are left."""
    await filled_ledger.fetch("UPDATE stripe_attributions SET rules_version = 0")
    monkeypatch.setattr("daemon.ledger.rebuild.ROWS", 10)
    total = await count_rows(filled_ledger)

    def stop_after_three(_done: int, steps: list[int] = []) -> None:  # noqa: B006
        steps.append(_done)
        if len(steps) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await rebuild(filled_ledger, stop_after_three)
    assert await count_rows(filled_ledger) == total - 30
    assert await rebuild(filled_ledger, lambda _done: None) == total - 30
    assert await ledger(filled_ledger) == right


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE ticket_totals SET paid_minor = paid_minor + 700, paid = 0 WHERE ticket_id = 'story-1'",
        "DELETE FROM ticket_totals WHERE ticket_id = 'story-2'",
        "INSERT INTO ticket_totals VALUES ('ghost', 'EUR', 5, 0, 0, 1, 0, 0, 0), ('', '', 5, 0, 0, 1, 0, 0, 0)",
    ],
    ids=["changed", "lost", "invented"],
)
async def test_wrong_totals_are_set_beside_traffic_and_a_second_run(
    database: Database, right: tuple[list[Row], list[Row]], damage: str
) -> None:
    """Totals that nothing explains are set to what the rows add up to, once, whichever other process runs or writes."""
    events = all_entries()
    await record(database, events[:200])
    await database.fetch(damage)
    await asyncio.gather(record(database, events[200:]), set_wrong_totals(database), set_wrong_totals(database))
    await set_wrong_totals(database)
    assert await ledger(database) == right
    assert await set_wrong_totals(database) == []


def test_the_command_says_what_it_did(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`donationd rebuild` derives what is older, and `verify` names the command while anything is."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    asyncio.run(_fill(database_url))
    runner = CliRunner()
    report = runner.invoke(main, ["verify"])
    assert "rows were derived by older rules; run: donationd rebuild" in report.stderr
    done = runner.invoke(main, ["rebuild", "--json"])
    assert (done.exit_code, done.stdout.startswith('{"rebuilt": ')) == (0, True)
    assert runner.invoke(main, ["rebuild"]).stdout == "derived 0 rows again\n"
    assert "older rules" not in runner.invoke(main, ["verify"]).output


async def _fill(url: str) -> None:
    database = Database(
        url, pool_size=1, statement_timeout_s=10, connect_timeout_s=5, application_name="donationd test"
    )
    await record(database, entries(scenarios.generate(3, 20, TICKETS, now=NOW), 1))
    await database.fetch("UPDATE stripe_attributions SET rules_version = 0")
    await database.close()

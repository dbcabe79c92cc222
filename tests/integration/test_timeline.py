"""`donationd timeline`: what happened to a donation, in order (SPEC 9)."""

import asyncio
import json
import random
from collections.abc import Sequence
from typing import Any

from click.testing import CliRunner, Result

from daemon.cli.main import main
from daemon.ledger.changes import ReceivedEvent
from daemon.ledger.reader import Ledger
from daemon.ledger.recorder import Recorder
from daemon.ledger.stripe_events import read
from daemon.ledger.timeline import Item
from daemon.simulator import sender
from daemon.simulator.scenarios import shuffled
from sql.database import Database
from tests.simulator.oracle import expected_donations
from tests.simulator.random_payments import random_scenario

AT = 1_760_000_000
CHARGE = {"id": "ch_1", "payment_intent": "pi_1", "amount": 500, "currency": "usd", "created": AT}
PAID = {**CHARGE, "amount_captured": 500, "paid": True, "status": "succeeded", "metadata": {"ticketId": "story-1"}}
FAILED = {**CHARGE, "amount_captured": 0, "paid": False, "status": "failed"}
DISPUTE = {"id": "du_1", "amount": 500, "charge": "ch_1", "payment_intent": "pi_1", "currency": "usd"}


async def record(database: Database, *events: tuple[int, str, dict[str, Any]]) -> None:
    for at, kind, shown in events:
        body = {"id": f"evt_{at}", "type": kind, "created": AT + at, "livemode": False, "data": {"object": shown}}
        event = read(sender.encode(body), livemode=False, hash_key=None)
        await Recorder(database).record([ReceivedEvent(event)])


async def run(url: str, *arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, main, ["timeline", *arguments], env={"DATABASE_URL": url})


async def test_facts_statuses_and_entries_stand_in_order(database: Database, database_url: str) -> None:
    """A payment and a dispute that is won: each status at its time, each entry with its cause, each fact with its
    object, whichever of the donation's objects is named."""
    await record(
        database,
        (1, "payment_intent.created", {"id": "pi_1", "amount": 500, "currency": "usd"}),
        (90, "charge.dispute.closed", {**DISPUTE, "status": "won"}),
        (10, "charge.succeeded", PAID),
        (20, "charge.dispute.created", {**DISPUTE, "status": "needs_response"}),
    )
    for id_ in ("pi_1", "ch_1", "du_1"):
        done = await run(database_url, id_, "--json")
        assert done.exit_code == 0, done.output
        items = [json.loads(line) for line in done.stdout.splitlines()]
        assert [item["at"] for item in items] == sorted(item["at"] for item in items)
        statuses = [(item["at"][14:19], item["name"]) for item in items if item["kind"] == "status"]
        assert statuses == [("53:21", "CREATED"), ("53:30", "PAID"), ("53:40", "DISPUTED"), ("54:50", "PAID")]
        entries = [(i["source"], i["value"], i["entry"]["cause"]) for i in items if i["kind"] == "entry"]
        assert entries == [
            ("payment ch_1", 500, "evt_10"),
            ("dispute du_1", 500, "evt_20"),
            ("dispute du_1", -500, "evt_20"),
        ]
        facts = [(item["source"], item["name"], item.get("value")) for item in items if item["kind"] == "fact"]
        for fact in (("charge ch_1", "captures 500", None), ("dispute du_1", "history won", 500)):
            assert facts.count(fact) == 1
    shown = (await run(database_url, "pi_1")).stdout
    assert "2025-10-09 08:53:40  entry   dispute du_1: +$5.00, ticket story-1 (entry 2, evt_20)\n" in shown


async def test_a_late_failure_is_a_change_of_the_status(database: Database, database_url: str) -> None:
    """A returned bank debit was paid once, and the timeline shows when it no longer was."""
    await record(database, (10, "charge.succeeded", PAID), (900, "charge.failed", FAILED))
    items = await Ledger(database).timeline("pi_1")
    assert items is not None
    assert [(i.at - AT, i.name) for i in items if i.kind == "status"] == [(10, "PAID"), (900, "FAILED")]
    assert [(i.at - AT, i.value) for i in items if i.kind == "entry"] == [(10, 500), (900, -500)]


async def test_a_monthly_donation_has_no_status_before_it_exists(database: Database) -> None:
    """What its subscription stated before begins no status."""
    session = {"id": "cs_1", "mode": "subscription", "subscription": "sub_1", "metadata": {"ticketId": "story-1"}}
    invoice = {"id": "in_1", "payment_intent": "pi_1", "subscription": "sub_1"}
    await record(
        database,
        (5, "checkout.session.completed", session),
        (10, "invoice.paid", invoice),
        (10, "charge.succeeded", PAID),
    )
    items = await Ledger(database).timeline("pi_1")
    assert items is not None
    assert 5 in {item.at - AT for item in items}
    assert [(i.at - AT, i.name) for i in items if i.kind == "status"] == [(10, "PAID")]


async def test_a_status_begins_when_its_money_moved(database: Database) -> None:
    """A later snapshot of the same state, and a second payment, do not move or hide the changes before them."""
    second = {**PAID, "id": "ch_2", "created": AT + 2000}
    await record(
        database,
        (10, "charge.succeeded", PAID),
        (900, "charge.failed", FAILED),
        (950, "charge.updated", FAILED),
        (2000, "charge.succeeded", second),
        (3000, "charge.refunded", {**second, "amount_refunded": 500}),
    )
    items = await Ledger(database).timeline("pi_1")
    assert items is not None
    statuses = [(i.at - AT, i.name) for i in items if i.kind == "status"]
    assert statuses == [(10, "PAID"), (900, "FAILED"), (2000, "PAID"), (3000, "REFUNDED")]


async def test_the_last_status_is_the_donations(database: Database) -> None:
    """Whatever happened at Stripe, in any order of events: a timeline ends with the status that the ledger shows."""
    for seed in range(20):
        rng = random.Random(seed)
        scenario = random_scenario(rng, ("story-1",), key=f"k{seed}", start=AT, longest=30)
        events = shuffled([scenario], seed)
        entries = [ReceivedEvent(read(sender.encode(event), livemode=False, hash_key=None)) for event in events]
        await Recorder(database).record(entries)
        for end in expected_donations(scenario):
            items = await Ledger(database).timeline(end.donation)
            assert items is not None
            assert [item.name for item in items if item.kind == "status"][-1] == end.status
            check_money(items)


def check_money(items: Sequence[Item]) -> None:
    """At the end of each second the status agrees with the entries so far."""
    for now in {item.at for item in items}:
        status = [item.name for item in items if item.kind == "status" and item.at <= now][-1:]
        booked = [item for item in items if item.kind == "entry" and item.at <= now]
        paid, refunded = (sum(i.value for i in booked if i.source.startswith(kind)) for kind in ("payment", "refund"))
        if status != ["DISPUTED"]:
            assert (status == ["REFUNDED"]) == (0 < paid <= refunded)
            assert (status == ["PAID"]) == (paid > refunded)


async def test_an_unknown_donation_is_reported(database_url: str) -> None:
    """An id that no event has named is an error with a hint where ids are found."""
    done = await run(database_url, "pi_nothing")
    assert done.exit_code == 1
    assert "there is no donation pi_nothing" in done.output

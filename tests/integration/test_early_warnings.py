"""Early fraud warnings: facts of their donation, in any order, until it is refunded or disputed (SPEC 11)."""

import itertools
from typing import Any

import pytest

from daemon.ledger.audit import actions
from daemon.ledger.changes import ReceivedEvent
from daemon.ledger.facts import object_ids, owners
from daemon.ledger.reader import Ledger
from daemon.ledger.recorder import Recorder
from daemon.ledger.stripe_events import CannotApply, read
from daemon.ledger.verification import verify
from daemon.reports.early_warnings import EarlyWarning, State, read_warnings
from daemon.reports.fraud import open_warnings
from daemon.reports.overview import waiting
from daemon.simulator import sender
from sql.database import Database
from sql.snapshot import snapshot
from tests.support.api_application import MakeClient, application, follower
from tests.support.console import Visitor
from tests.support.operators import ACTOR, READER, TOKENS, bearer

AT = 1_760_000_000
CHARGE = {
    "id": "ch_1",
    "payment_intent": "pi_1",
    "amount": 5000,
    "amount_captured": 5000,
    "amount_refunded": 0,
    "currency": "usd",
    "created": AT,
    "paid": True,
    "status": "succeeded",
    "metadata": {"ticketId": "story-1"},
}
WARNING = {"id": "issfr_1", "charge": "ch_1", "created": AT + 60, "fraud_type": "made_with_stolen_card"}
CREATED = (60, "radar.early_fraud_warning.created", {**WARNING, "actionable": True})
UPDATED = (90, "radar.early_fraud_warning.updated", {**WARNING, "actionable": False, "payment_intent": "pi_1"})
PAID = (1, "charge.succeeded", CHARGE)
DISPUTE = {"id": "du_1", "amount": 5000, "charge": "ch_1", "currency": "usd", "status": "won"}
Event = tuple[int, str, dict[str, Any]]


def received(at: int, kind: str, shown: dict[str, Any]) -> ReceivedEvent:
    body = {"id": f"evt_{at}", "type": kind, "created": AT + at, "livemode": False, "data": {"object": shown}}
    return ReceivedEvent(read(sender.encode(body), livemode=False, hash_key=None))


async def warnings_after(database: Database, *events: Event) -> list[EarlyWarning]:
    await database.fetch("DELETE FROM stripe_events; DELETE FROM stripe_attributions; DELETE FROM stripe_objects")
    for event in events:
        await Recorder(database).record([received(*event)])
    return await read_warnings(database)


async def test_a_warning_belongs_to_its_donation_in_any_order(database: Database) -> None:
    """Before or after the payment, once or twice, with or without the PaymentIntent: the same warning with its costs,
    and every id of it leads to the donation."""
    expected = EarlyWarning(
        id="issfr_1",
        made_at=AT + 60,
        kind="made_with_stolen_card",
        state=State.CLOSED,
        donation="pi_1",
        charge="ch_1",
        ticket="story-1",
        currency="USD",
        cost_minor=5000,
    )
    for events in itertools.permutations([PAID, CREATED, UPDATED]):
        assert await warnings_after(database, *events, events[0]) == [expected]
        facts = await Ledger(database).facts_of("issfr_1")
        assert facts is not None
        assert (object_ids(facts), owners(facts)["issfr_1"]) == ({"pi_1", "ch_1", "issfr_1"}, "pi_1")


@pytest.mark.parametrize(
    ("later", "state", "cost"),
    [
        ([], State.OPEN, 5000),
        ([(99, "charge.refunded", {**CHARGE, "amount_refunded": 2000})], State.OPEN, 3000),
        ([(99, "charge.refunded", {**CHARGE, "amount_refunded": 5000})], State.REFUNDED, 0),
        ([(99, "charge.dispute.closed", DISPUTE)], State.DISPUTED, 5000),
        ([UPDATED], State.CLOSED, 5000),
    ],
)
async def test_a_warning_waits_until_it_is_refunded_or_disputed(
    database: Database, later: list[Event], state: State, cost: int
) -> None:
    """A partial refund lowers the cost and leaves it open; a dispute, whatever became of it, ends it."""
    [warning] = await warnings_after(database, PAID, CREATED, *later)
    assert (warning.state, warning.cost_minor) == (state, cost)
    [same] = await warnings_after(database, *later, CREATED, PAID)
    assert same == warning


async def test_a_warning_changes_no_money(database: Database, database_url: str) -> None:
    """The ledger's check finds no difference, and entries and figures are those without the warning."""
    await warnings_after(database, CREATED, PAID, UPDATED)
    [(total, entries)] = await database.fetch(
        "SELECT paid_minor, (SELECT count(*) FROM ledger_entries) FROM ticket_totals"
    )
    assert (total, entries) == (5000, 1)
    with snapshot(database_url, "donationd test") as moment:
        assert list(verify(moment, lambda _count: None)) == []


async def test_the_reason_states_both_costs(database: Database) -> None:
    """What a refund costs now and a dispute later, in the donation's currency; the fee is never added to it."""
    [warning] = await warnings_after(database, PAID, CREATED)
    assert warning.reason("€20.00") == (
        "The card's issuer reported made_with_stolen_card for charge ch_1; a refund now costs $50.00, a dispute later "
        "costs $50.00 and a fee of €20.00; about four of five such warnings become disputes."
    )
    assert "and Stripe's fee for a dispute;" in warning.reason(None)


async def test_operators_list_what_waits_with_its_cost(database: Database, aiohttp_client: MakeClient) -> None:
    """Newest first, in pages, those that are resolved only on request; without a token nothing."""
    for n in range(1, 4):
        payment = {**CHARGE, "id": f"ch_{n}", "payment_intent": f"pi_{n}"}
        warning = {**WARNING, "id": f"issfr_{n}", "charge": f"ch_{n}", "created": AT + n, "actionable": n != 2}
        await Recorder(database).record([received(n, "charge.succeeded", payment)])
        await Recorder(database).record([received(10 + n, "radar.early_fraud_warning.created", warning)])
    client = await aiohttp_client(application(database, follower(), tokens=TOKENS))

    async def page(**query: str) -> Any:
        reply = await client.get("/api/operator/early-warnings", params=query, headers=bearer(READER))
        assert reply.status == 200, await reply.text()
        return await reply.json()

    assert (await client.get("/api/operator/early-warnings")).status == 401
    first = await page(limit="1")
    [warned] = first["warnings"]
    assert {name: warned[name] for name in ("id", "state", "donation", "ticket", "cost", "currency")} == {
        "id": "issfr_3",
        "state": "open",
        "donation": "pi_3",
        "ticket": "story-1",
        "cost": 50.0,
        "currency": "USD",
    }
    assert "a refund now costs $50.00" in warned["reason"]
    last = await page(limit="1", cursor=first["nextCursor"])
    assert ([each["id"] for each in last["warnings"]], last["nextCursor"]) == (["issfr_1"], None)
    assert [each["state"] for each in (await page(state="all"))["warnings"]] == ["open", "closed", "open"]


async def test_an_operator_dismisses_a_warning_that_needs_no_refund(
    database: Database, aiohttp_client: MakeClient
) -> None:
    """It waits no more: in no list, count or signal. Who did it is on record; a later dispute still ends it."""
    await warnings_after(database, PAID, CREATED)
    client = await aiohttp_client(application(database, follower(), tokens=TOKENS))

    async def dismiss(id_: str, token: str = ACTOR) -> int:
        path = f"/api/operator/early-warnings/{id_}/dismiss"
        return (await client.post(path, headers=bearer(token))).status

    assert [await dismiss("issfr_1", READER), await dismiss("issfr_2"), await dismiss("ch_1")] == [403, 404, 400]
    assert (await waiting(database)).early_warnings == 1
    assert [await dismiss("issfr_1"), await dismiss("issfr_1")] == [200, 409]
    assert [(row.by, row.action, row.donation, row.detail) for row in await actions(database, 9)] == [
        ("anna", "warning", "pi_1", "dismiss issfr_1")
    ]
    assert (await waiting(database)).early_warnings == 0
    [warning] = await read_warnings(database)
    assert (warning.state, open_warnings([warning], None)) == (State.DISMISSED, [])
    await Recorder(database).record([received(99, "charge.dispute.closed", DISPUTE)])
    assert [each.state for each in await read_warnings(database)] == [State.DISPUTED]


async def test_the_console_dismisses_a_warning(database: Database, aiohttp_client: MakeClient) -> None:
    """One that waits has a button, for operators who may act; afterwards it is shown without one."""
    await warnings_after(database, PAID, CREATED)
    client = await aiohttp_client(application(database, follower(), tokens=TOKENS))
    rita, anna = [await Visitor(client).sign_in(token) for token in (READER, ACTOR)]
    button, queue = 'aria-label="Dismiss the warning of pi_1"', "/operator/warnings"
    assert button not in await rita.page(queue) and button in await anna.page(queue)
    reply = await anna.post(f"{queue}/issfr_1/dismiss", {"back": queue})
    assert "The warning was dismissed." in await anna.page(reply.headers["Location"])
    shown = await anna.page(f"{queue}?state=all")
    assert ">dismissed<" in shown and button not in shown and "pi_1" not in await anna.page(queue)


@pytest.mark.parametrize(("field", "value"), [("id", "ch_2"), ("id", "issfr_"), ("charge", 7), ("actionable", "yes")])
def test_a_warning_of_another_shape_cannot_be_applied(field: str, value: object) -> None:
    """Stripe delivers it again; an id that begins otherwise would not be found in the list."""
    with pytest.raises(CannotApply):
        received(60, "radar.early_fraud_warning.created", {**WARNING, field: value})


def test_a_warning_without_a_charge_changes_nothing() -> None:
    """It belongs to no donation."""
    event = received(60, "radar.early_fraud_warning.created", {**WARNING, "charge": None}).event
    assert (event.facts, event.reason) == (None, "this early fraud warning names no charge")


def test_a_kind_that_may_be_free_text_is_not_kept() -> None:
    """Only words of Stripe's form are stored."""
    event = received(60, "radar.early_fraud_warning.created", {**WARNING, "fraud_type": "Ada Byron"}).event
    assert "Byron" not in str(event.facts)
    assert "unknown" in str(event.facts)

"""Random payments: the pure part of the ledger shows their end in any order, and everything that can happen does."""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.simulator.api_versions import APIS
from daemon.simulator.dispute_statuses import STAGES
from daemon.simulator.scenarios import shuffled
from daemon.simulator.stripe_objects import Json
from tests.simulator.oracle import FAMILIES, expected_donations
from tests.simulator.random_payments import RandomScenario, random_scenario
from tests.simulator.random_steps import STEPS
from tests.simulator.random_walk import CURRENCIES, NOT_TICKETS, OPENINGS, UNKNOWN_TICKET, UNSUBSCRIBED
from tests.support.model_ledger import as_row, derived, derived_after_each

NOW = 1_800_000_000
TICKETS = ("story-1", "story-2")
RANDOM = st.randoms(use_true_random=False)


def at_random(rng: random.Random, key: str = "1") -> RandomScenario:
    """A scenario at random."""
    return random_scenario(rng, TICKETS, key=key, start=NOW)


@pytest.fixture(scope="module")
def random_scenarios() -> list[RandomScenario]:
    """Two thousand scenarios of one database."""
    return [at_random(random.Random(index), f"w{index}") for index in range(2000)]


def assert_shown(scenario: RandomScenario, events: Sequence[Json]) -> None:
    """The ledger derives exactly what is expected of the events."""
    assert derived(events) == sorted(map(as_row, expected_donations(scenario)))


@settings(max_examples=200)
@given(RANDOM)
def test_any_order_shows_the_end_that_the_oracle_expects(rng: random.Random) -> None:
    """Whatever happened at Stripe, in whatever order and how often it is reported: the ledger shows what the oracle
    expects."""
    scenario = at_random(rng)
    assert_shown(scenario, shuffled([scenario], rng.randint(0, 99), duplicates=0.3))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: "+".join(sorted(family)))
def test_families_of_events_can_be_left_out(random_scenarios: list[RandomScenario], family: frozenset[str]) -> None:
    """Where the model says that a family of events is dispensable, the end is the same without it."""
    shorter = 0
    for scenario in random_scenarios:
        rest = scenario.without(family)
        if rest is not None and len(rest.events) < len(scenario.events):
            shorter += 1
            assert_shown(rest, shuffled([rest], shorter))
            assert rest.without(family) is None
        if shorter == 100:
            break
    assert shorter > 20


def test_no_prefix_shows_more_than_there_ever_was(random_scenarios: list[RandomScenario]) -> None:
    """While events come in Stripe's order, no amount is shown above the largest that the model ever had."""
    for scenario in filter(expected_donations, random_scenarios[:150]):
        for rows in derived_after_each(scenario.events):
            for id_, _ticket, _currency, _status, amount, refunded, disputed, _created, paid_at, *_ in rows:
                assert (amount or 0 if paid_at else 0) <= scenario.largest[id_].paid
                assert refunded <= scenario.largest[id_].refunded
                assert disputed <= scenario.largest[id_].disputed


def test_a_random_scenario_is_repeatable() -> None:
    """The same choices give the same scenario."""
    assert at_random(random.Random(5)) == at_random(random.Random(5)) != at_random(random.Random(6))


def test_ids_of_random_payments_are_unique(random_scenarios: list[RandomScenario]) -> None:
    """No two events, and no objects of two scenarios, share an id."""
    owner: dict[str, int] = {}
    for index, scenario in enumerate(random_scenarios):
        for event in scenario.events:
            assert owner.setdefault(event["id"], -1) == -1
            owner[event["id"]] = index
            assert owner.setdefault(event["data"]["object"]["id"], index) == index


def test_random_payments_run_forward(random_scenarios: list[RandomScenario]) -> None:
    """Events come in time order, and where a dispute's state falls, a second has passed."""
    for scenario in random_scenarios:
        newest: dict[str, tuple[int, tuple[int, int]]] = {}
        times = [event["created"] for event in scenario.events]
        assert times == sorted(times)
        for event in scenario.events:
            thing = event["data"]["object"]
            if thing["object"] == "dispute":
                state = event["created"], (STAGES.index(thing["status"]), thing["amount"])
                assert state >= newest.get(thing["id"], state)
                newest[thing["id"]] = state


def found_in(scenario: RandomScenario) -> Iterator[str]:
    """What can be seen in a scenario from outside."""
    yield from (f"step {step}" for step in scenario.steps)
    yield from (f"type {event['type']}" for event in scenario.events)
    yield from (f"api {event['api_version']}" for event in scenario.events)
    yield f"kind {scenario.kind}"
    for end in expected_donations(scenario):
        yield f"status {end.status}"
        yield f"currency {end.currency}"
        yield f"ticket {end.ticket}"
        yield f"donor {bool(end.donor)} {bool(end.country)} {bool(end.email)}"
    kept = [event["data"]["object"] for event in scenario.events]
    for thing in kept:
        yield from SHAPES[thing["object"]](thing)
    for name, objects in (
        ("charges", {each["id"]: each.get("payment_intent") for each in kept if each["object"] == "charge"}),
        ("sessions", {each["id"]: each.get("payment_intent") for each in kept if each["object"] == "checkout.session"}),
        ("disputes", {each["id"]: each["charge"] for each in kept if each["object"] == "dispute"}),
        ("refunds", {each["id"]: each["charge"] for each in kept if each["object"] == "refund"}),
    ):
        yield f"{max(Counter(objects.values()).values(), default=0)} {name}"
    named = [each.get("metadata", {}).get("ticketId") for each in kept] + [
        each.get("client_reference_id") for each in kept
    ]
    yield f"{len({text for text in named if text})} tickets"
    yield f"{len(expected_donations(scenario))} donations"
    yield from (f"names {text!r}" for text in named)
    yield f"{max(Counter(event['created'] for event in scenario.events).values(), default=0)} events a second"


def intent_shapes(intent: Json) -> Iterator[str]:
    """How a PaymentIntent carries its charges, and where it stands."""
    yield f"intent {intent['status']}"
    if "charges" in intent:
        assert "latest_charge" not in intent
        yield f"{len(intent['charges']['data'])} charges listed"
    else:
        yield f"latest_charge {type(intent['latest_charge']).__name__}"


def charge_shapes(charge: Json) -> Iterator[str]:
    """How much of a charge was taken and went back."""
    if "amount_captured" not in charge:
        yield "charge without amount_captured"
        return
    taken, released = charge["amount_captured"], max(0, charge["amount"] - charge["amount_captured"])
    yield f"charge {charge['status']} captured={charge['captured']} some={taken > 0}"
    yield f"captured {(taken > charge['amount']) - (taken < charge['amount']):+} {taken > 0}"
    if taken and charge["captured"] and released:
        yield "release counted" if charge["amount_refunded"] >= released else "release not counted"
    if taken and charge["amount_refunded"] > released:
        yield "refunded wholly" if charge["refunded"] else "refunded in part"
    if not taken and charge["amount_refunded"] == charge["amount"]:
        yield "released wholly"
    yield f"charge of {len(str(charge['amount']))} digits"
    yield f"charge under a PaymentIntent: {charge['payment_intent'] is not None}"


def invoice_shapes(invoice: Json) -> Iterator[str]:
    """Where an invoice names its subscription, and where the ticket."""
    yield f"invoice {'parent' in invoice} {'subscription_details' in invoice} {bool(invoice.get('subscription'))}"
    line, details = invoice["lines"]["data"][0]["metadata"], invoice.get("subscription_details") or {}
    yield f"line differs {details.get('metadata', line) != line}"


def other_shapes(thing: Json) -> Iterator[str]:
    """Objects of one shape."""
    yield f"object {thing['object']}"


def session_shapes(session: Json) -> Iterator[str]:
    """A session's mode and state."""
    yield f"session {session['mode']} {session.get('status')} {session.get('payment_status')}"


def refund_shapes(refund: Json) -> Iterator[str]:
    """A refund's state and link."""
    yield f"refund {refund['status']} linked={'payment_intent' in refund}"


def dispute_shapes(dispute: Json) -> Iterator[str]:
    """A dispute's state and link."""
    yield f"dispute {dispute['status']} linked={'payment_intent' in dispute}"


SHAPES: dict[str, Callable[[Json], Iterator[str]]] = {
    "payment_intent": intent_shapes,
    "charge": charge_shapes,
    "checkout.session": session_shapes,
    "refund": refund_shapes,
    "dispute": dispute_shapes,
    "invoice": invoice_shapes,
    "invoice_payment": other_shapes,
    "subscription": other_shapes,
}


# What random payments contain, as `found_in` names it.
WANTED = {
    *(f"step {step.name}" for step in STEPS),
    *(f"step receives {endpoint}" for endpoint in UNSUBSCRIBED),
    *(f"api {api.version}" for api in APIS),
    *(f"kind {kind}" for kind in (*OPENINGS, "other mode")),
    *(f"status {status}" for status in ("DISPUTED", "REFUNDED", "PAID", "EXPIRED", "FAILED", "CREATED")),
    *(f"currency {currency.upper()}" for currency in CURRENCIES),
    *(f"ticket {ticket}" for ticket in (*TICKETS, UNKNOWN_TICKET, None)),
    *(f"names {text!r}" for text in (*TICKETS, UNKNOWN_TICKET, *NOT_TICKETS, None)),
    *(f"{count} tickets" for count in range(4)),
    *(f"{count} events a second" for count in range(1, 8)),
    *(f"dispute {stage} linked={linked}" for stage in STAGES for linked in (True, False)),
    *(
        f"refund {status} linked={linked}"
        for status in ("pending", "requires_action", "succeeded", "failed", "canceled")
        for linked in (True, False)
        if linked or status != "pending"
    ),
    *("1 sessions", "2 sessions", "2 charges", "3 charges", "2 disputes", "3 disputes", "2 refunds", "3 refunds"),
    *(f"{count} charges listed" for count in (0, 1, 2, 3, 10)),
    *(f"{count} donations" for count in range(6)),
    *("latest_charge NoneType", "latest_charge str", "latest_charge dict", "charge without amount_captured"),
    *("captured -1 False", "captured -1 True", "captured +0 True", "captured +1 True", "released wholly"),
    *("release counted", "release not counted", "refunded wholly", "refunded in part"),
    *("charge of 12 digits", "charge of 3 digits"),
    *("charge under a PaymentIntent: True", "charge under a PaymentIntent: False"),
    *("charge pending captured=True some=True", "charge succeeded captured=False some=False"),
    *("charge succeeded captured=False some=True", "charge failed captured=False some=False"),
    "charge failed captured=True some=True",
    *(
        "invoice False False False",
        "invoice False False True",
        "invoice False True True",
        "invoice True False False",
    ),
    *("line differs True", "line differs False", "object invoice_payment", "object subscription"),
    *("session setup complete no_payment_required", "session subscription complete paid"),
    *("session payment complete no_payment_required", "session payment complete unpaid"),
    *("session payment complete paid", "session payment expired unpaid", "session payment None None"),
    *("type checkout.session.created", "type payment_intent.amount_capturable_updated"),
    *("type charge.pending", "type charge.expired"),
    *(f"type checkout.session.{name}" for name in "completed expired".split()),
    *(f"type checkout.session.async_payment_{name}" for name in "succeeded failed".split()),
    *(f"type payment_intent.{name}" for name in "succeeded payment_failed canceled processing created".split()),
    *(f"type charge.{name}" for name in "succeeded updated captured failed refunded refund.updated".split()),
    *(f"type refund.{name}" for name in "created updated failed".split()),
    *(f"type charge.dispute.{name}" for name in "created updated closed".split()),
    *("type invoice.paid", "type invoice.payment_succeeded", "type invoice_payment.paid", "type payment.created"),
    *(f"type customer.subscription.{name}" for name in "created updated deleted".split()),
    *(f"type charge.dispute.funds_{name}" for name in "withdrawn reinstated".split()),
}


def test_everything_happens_in_random_payments(random_scenarios: list[RandomScenario]) -> None:
    """Three thousand scenarios contain every step, state, API shape and contradiction that there is."""
    seen = Counter(mark for scenario in random_scenarios for mark in set(found_in(scenario)))
    assert {mark: seen[mark] for mark in WANTED if seen[mark] < 3} == {}
    assert any(not expected_donations(scenario) and scenario.events for scenario in random_scenarios)

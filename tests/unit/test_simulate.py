"""The generator of payment scenarios: repeatable, consistent with itself, and delivered as Stripe would.

Random payments are also held against the pure part of the ledger, which is what they are for.
"""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence

import pytest
import stripe
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.simulator.api_versions import APIS
from daemon.simulator.dispute_statuses import STAGES
from daemon.simulator.scenarios import DISTRIBUTION, KINDS, Scenario, generate, seed_example, shuffled
from daemon.simulator.sender import Outcome, Retry, deliver, encode, sign
from daemon.simulator.stripe_objects import Json
from tests.simulator.oracle import FAMILIES, Expected, expected_donations, only_donation
from tests.simulator.random_payments import (
    CURRENCIES,
    NOT_TICKETS,
    OPENINGS,
    STEPS,
    UNKNOWN_TICKET,
    UNSUBSCRIBED,
    RandomScenario,
    random_scenario,
)
from tests.support.model_ledger import as_row, derived, derived_after_each

NOW = 1_800_000_000
SECRET = "whsec_simulated"
EVENTS = shuffled(generate(1, 4, ["story-1"], now=NOW), 1, duplicates=0)
AT_ONCE = Retry(delay_s=0)

Reply = Callable[[Json], web.Response]


@pytest.fixture(scope="module")
def scenarios() -> list[Scenario]:
    """Two thousand scenarios over three tickets."""
    return generate(7, 2000, ["story-1", "story-2", "story-3"], now=NOW)


def ends(scenarios: Sequence[Scenario]) -> list[Expected]:
    """What is expected of all donations of these scenarios."""
    return [end for scenario in scenarios for end in expected_donations(scenario)]


def rows(scenario: Scenario, prefix: str) -> list[Json]:
    """The objects of a scenario's events whose type starts with the prefix, in order."""
    return [event["data"]["object"] for event in scenario.events if event["type"].startswith(prefix)]


# --- The scenarios


def test_same_seed_same_scenarios() -> None:
    """The same arguments give the same scenarios, and fewer payments give a prefix of more."""
    assert generate(3, 40, ["a", "b"], now=NOW) == generate(3, 40, ["a", "b"], now=NOW)
    assert generate(3, 40, ["a", "b"], now=NOW)[:25] == generate(3, 25, ["a", "b"], now=NOW)
    assert generate(4, 5, ["a"], now=NOW) != generate(3, 5, ["a"], now=NOW)


@given(st.integers())
def test_every_kind_appears(seed: int) -> None:
    """Twenty payments hold every kind of scenario, whatever the seed."""
    assert len(DISTRIBUTION) == 20
    assert {scenario.kind for scenario in generate(seed, 20, ["a"], now=NOW)} == {kind.name for kind in KINDS}


def test_no_ticket_is_an_error() -> None:
    """Without a ticket to give to there are no scenarios."""
    with pytest.raises(ValueError, match="no ticket"):
        generate(1, 1, [], now=NOW)


def test_ids_are_unique(scenarios: list[Scenario]) -> None:
    """No two events, and no two donations, share an id."""
    events = [event["id"] for scenario in scenarios for event in scenario.events]
    assert len(set(events)) == len(events)
    donations = [end.donation for end in ends(scenarios)]
    assert len(set(donations)) == len(donations) > len(scenarios)


def test_events_lie_in_order_before_now(scenarios: list[Scenario]) -> None:
    """Events come in time order, within the last 30 days (a monthly donation: 62), in whole seconds, in test mode."""
    for scenario in scenarios:
        times = [event["created"] for event in scenario.events]
        assert times == sorted(times)
        days = 62 if scenario.kind == "monthly" else 30
        assert NOW - days * 86_400 <= times[0] <= times[-1] <= NOW, scenario.kind
        assert all(type(at) is int for at in times)
        assert not any(event["livemode"] or event["data"]["object"].get("livemode") for event in scenario.events)


def test_live_mode_is_said_everywhere() -> None:
    """With livemode every event and every object that names a mode names the live one."""
    for scenario in generate(1, 20, ["a"], livemode=True, now=NOW):
        assert all(event["livemode"] for event in scenario.events)
        assert all(event["data"]["object"].get("livemode", True) for event in scenario.events)


def test_today_s_shapes(scenarios: list[Scenario]) -> None:
    """PaymentIntents name their charge by id and carry no `charges`; refunds and disputes carry no metadata."""
    for scenario in scenarios:
        for intent in rows(scenario, "payment_intent."):
            assert "charges" not in intent
            assert intent["latest_charge"] is None or intent["latest_charge"].startswith("ch_")
        for linked in rows(scenario, "refund.") + rows(scenario, "charge.dispute."):
            assert linked["metadata"] == {}
            assert linked["payment_intent"] == only_donation(scenario).donation


def test_bodies_are_of_a_real_size(scenarios: list[Scenario]) -> None:
    """A charge's body has about the 3 kB of a real one."""
    sizes = [
        len(encode(event)) for scenario in scenarios for event in scenario.events if event["type"] == "charge.succeeded"
    ]
    assert 2_500 < min(sizes) <= max(sizes) < 5_000


# --- What is expected of the ledger


def test_amounts_are_consistent(scenarios: list[Scenario]) -> None:
    """Refunded and disputed money never exceeds the amount, and only paid donations have any."""
    for expected in ends(scenarios):
        amount = expected.amount_minor or 0
        assert amount > 0
        assert 0 <= expected.refunded_minor <= amount
        assert 0 <= expected.disputed_minor <= amount - expected.refunded_minor
        if expected.paid_at is None:
            assert expected.refunded_minor == expected.disputed_minor == 0
        assert (expected.refunded_at is None) == (expected.refunded_minor == 0)
        assert expected.currency != "KWD" or amount % 10 == expected.refunded_minor % 10 == 0


def test_statuses_follow_the_kinds(scenarios: list[Scenario]) -> None:
    """Each kind ends in the status its name says."""
    statuses: dict[str, set[str]] = {}
    for scenario in scenarios:
        statuses.setdefault(scenario.kind, set()).update(end.status for end in expected_donations(scenario))
    assert statuses == {
        "paid": {"PAID"},
        "paid_late": {"PAID"},
        "refunded": {"REFUNDED"},
        "partially_refunded": {"PAID"},
        "dispute_won": {"PAID"},
        "dispute_lost": {"DISPUTED"},
        "dispute_open": {"DISPUTED"},
        "inquiry": {"PAID", "DISPUTED"},
        "expired": {"EXPIRED"},
        "failed_then_paid": {"PAID"},
        "no_ticket": {"PAID"},
        "refund_failed": {"PAID"},
        "debit_failed": {"FAILED"},
        "debit_returned": {"FAILED"},
        "monthly": {"PAID"},
    }


def test_money_follows_the_kinds(scenarios: list[Scenario]) -> None:
    """Refunds and disputes move what their kind says; a failed refund and a won dispute move nothing."""
    for kind, end in [(scenario.kind, end) for scenario in scenarios for end in expected_donations(scenario)]:
        amount, refunded, disputed = end.amount_minor or 0, end.refunded_minor, end.disputed_minor
        match kind:
            case "refunded":
                assert (refunded, disputed) == (amount, 0)
            case "partially_refunded":
                assert 0 < refunded < amount
                assert disputed == 0
            case "dispute_lost" | "dispute_open":
                assert (refunded, disputed) == (0, amount)
            case "inquiry":
                assert (refunded, disputed) in {(0, 0), (0, amount)}
            case _:
                assert (refunded, disputed) == (0, 0)


def test_charge_snapshots_agree(scenarios: list[Scenario]) -> None:
    """The last charge.refunded before any failure says the sum of the refunds that were created."""
    for scenario in scenarios:
        snapshots = rows(scenario, "charge.refunded")
        if snapshots:
            assert snapshots[-1]["amount_refunded"] == sum(r["amount"] for r in rows(scenario, "refund.created"))


def test_ticket_is_found_where_the_scenario_names_it(scenarios: list[Scenario]) -> None:
    """A scenario with a ticket names it in metadata or in client_reference_id; one without names none anywhere."""
    ways: Counter[str] = Counter()
    for scenario in scenarios:
        objects = [event["data"]["object"] for event in scenario.events]
        metadata = {each.get("metadata", {}).get("ticketId") for each in objects} - {None}
        reference = {each.get("client_reference_id") for each in objects} - {None}
        assert metadata | reference == ({end.ticket for end in expected_donations(scenario)} - {None})
        ways["metadata" if metadata else "reference" if reference else "none"] += 1
    assert set(ways) == {"metadata", "reference", "none"}


def test_donors_are_of_every_sort(scenarios: list[Scenario]) -> None:
    """Named and nameless donors appear, and a name is only ever expected if some event carried it."""
    for scenario in scenarios:
        text = json.dumps(scenario.events, ensure_ascii=False)
        for donor in (end.donor or "" for end in expected_donations(scenario)):
            assert donor in text
            assert "@" not in donor
    assert {None, "Smith", "López", "O'Neill", "山田"} <= {end.donor for end in ends(scenarios)}


def test_seed_example() -> None:
    """The four donations of the original ledger view: 350.00 paid, 100.00 of it refunded."""
    four = ends(seed_example())
    assert [(e.donor, e.country, e.amount_minor, e.status) for e in four] == [
        ("Smith", "US", 5000, "PAID"),
        ("Johnson", "CA", 10_000, "REFUNDED"),
        (None, None, 7500, "PAID"),
        ("Garcia", "MX", 12_500, "PAID"),
    ]
    assert {e.ticket for e in four} == {"ticket_abc123"}
    assert [e.refunded_at for e in four] == [None, 1_734_339_600, None, None]


# --- Out of order


def test_shuffled_keeps_every_event() -> None:
    """Shuffling loses nothing, repeats a tenth, and is repeatable."""
    some = generate(5, 30, ["a"], now=NOW)
    events = [event for scenario in some for event in scenario.events]
    mixed = shuffled(some, 9)
    assert {event["id"] for event in mixed} == {event["id"] for event in events}
    assert len(mixed) == len(events) + round(len(events) * 0.1)
    assert [event["created"] for event in mixed] != sorted(event["created"] for event in mixed)
    assert mixed == shuffled(some, 9)
    assert shuffled([], 9) == []


# --- Random payments

TICKETS = ("story-1", "story-2")
RANDOM = st.randoms(use_true_random=False)


def at_random(rng: random.Random, key: str = "1") -> RandomScenario:
    """A scenario at random."""
    return random_scenario(rng, TICKETS, key=key, start=NOW)


@pytest.fixture(scope="module")
def random_scenarios() -> list[RandomScenario]:
    """Two thousand scenarios of one database."""
    return [at_random(random.Random(index), f"w{index}") for index in range(2000)]


def assert_told(scenario: RandomScenario, events: Sequence[Json]) -> None:
    """The fold derives exactly what is expected of the events."""
    assert derived(events) == sorted(map(as_row, expected_donations(scenario)))


@settings(max_examples=400, deadline=None)
@given(RANDOM)
def test_any_order_tells_the_model_s_end(rng: random.Random) -> None:
    """Whatever happened at Stripe, in whatever order and how often it is reported: the ledger shows the model's end."""
    scenario = at_random(rng)
    assert_told(scenario, shuffled([scenario], rng.randint(0, 99), duplicates=0.3))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: "+".join(sorted(family)))
def test_families_of_events_can_be_left_out(random_scenarios: list[RandomScenario], family: frozenset[str]) -> None:
    """Where the model says that a family of events is dispensable, the end is the same without it."""
    shorter = 0
    for scenario in random_scenarios:
        rest = scenario.without(family)
        if rest is not None and len(rest.events) < len(scenario.events):
            shorter += 1
            assert_told(rest, shuffled([rest], shorter))
            assert rest.without(family) is None
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


def test_everything_happens_in_random_payments(random_scenarios: list[RandomScenario]) -> None:
    """Three thousand scenarios contain every step, state, API shape and contradiction that there is."""
    seen = Counter(mark for scenario in random_scenarios for mark in set(found_in(scenario)))
    wanted = {
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
    assert {mark: seen[mark] for mark in wanted if seen[mark] < 3} == {}
    assert any(not expected_donations(scenario) and scenario.events for scenario in random_scenarios)


def test_the_simulator_is_independent() -> None:
    """The simulator imports nothing of ours."""
    code = "import sys, daemon.simulator.sender, daemon.simulator.scenarios; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    ours = {name for name in modules if name.split(".")[0] in ("daemon", "health_sidecar", "sql", "tests")}
    assert "daemon.simulator.scenarios" in ours
    assert {name for name in ours if not name.startswith("daemon.simulator")} == {"daemon"}


# --- Signatures


@given(st.text(), st.text(min_size=1).filter(str.strip), st.integers(0, 2**40))
def test_signature_is_stripe_s(text: str, secret: str, timestamp: int) -> None:
    """Stripe's own library accepts the header for this body, and no other body."""
    body = text.encode()
    header = sign(body, secret, timestamp)
    assert stripe.WebhookSignature.verify_header(body, header, secret)
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.WebhookSignature.verify_header(body + b" ", header, secret)


# --- The player, against a stand-in for the API


class Receiver:
    """Answers webhooks: the given statuses first, then 200; knows each event again."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.seen: list[str] = []
        self.headers: list[str] = []

    async def receive(self, request: web.Request) -> web.Response:
        """Checks the signature on the raw body, as the API does."""
        body = await request.read()
        header = request.headers["Stripe-Signature"]
        stripe.WebhookSignature.verify_header(body, header, SECRET, tolerance=300)
        self.headers.append(header)
        if self.statuses:
            return web.Response(status=self.statuses.pop(0), headers={"Retry-After": "30"}, text="no JSON here")
        event = json.loads(body)
        known = event["id"] in self.seen
        self.seen.append(event["id"])
        handled = event["type"] != "charge.pending"
        return web.json_response({"received": True, "type": event["type"], "idempotent": known, "handled": handled})

    def server(self) -> TestServer:
        """A server on a free loopback port."""
        app = web.Application()
        app.router.add_post("/webhooks/stripe", self.receive)
        return TestServer(app)


def recorder(waits: list[float]) -> Callable[[float], Awaitable[None]]:
    """A sleep that only notes how long it was asked to."""

    async def sleep(delay_s: float) -> None:
        waits.append(delay_s)

    return sleep


async def test_play_counts_applied_and_duplicates() -> None:
    """Every event is delivered once; a second delivery of the same events finds them all known."""
    receiver = Receiver()
    seen: list[int] = []
    async with receiver.server() as server:
        url = str(server.make_url("/"))
        first = await deliver(url, SECRET, EVENTS, progress=lambda outcome: seen.append(outcome.remaining))
        second = await deliver(url, SECRET, EVENTS)
    assert first.applied + first.ignored == len(EVENTS) == first.replies["200"]
    assert first.acknowledged == {event["id"] for event in EVENTS}
    assert seen == list(range(len(EVENTS) - 1, -1, -1))
    assert (second.duplicate, second.applied, second.remaining) == (len(EVENTS), 0, 0)


async def test_play_waits_as_503_asks() -> None:
    """A 503 is tried again after its Retry-After, cut at the longest delay, and then applied."""
    receiver, waits = Receiver(503, 503), list[float]()
    async with receiver.server() as server:
        url = str(server.make_url("/"))
        outcome = await deliver(url, SECRET, EVENTS[:1], sleep=recorder(waits))
        receiver.statuses = [503]
        await deliver(url, SECRET, EVENTS[:1], retry=Retry(longest_delay_s=0.25), sleep=recorder(waits))
    assert waits == [30, 30, 0.25]
    assert outcome.replies == {"503": 2, "200": 1}
    assert (outcome.applied, outcome.undelivered, outcome.remaining) == (1, 0, 0)


async def test_play_gives_up_in_the_end() -> None:
    """Attempts are bounded; an event that used them up is undelivered, and not acknowledged."""
    receiver, waits = Receiver(*[503] * 3), list[float]()
    async with receiver.server() as server:
        url = str(server.make_url("/"))
        outcome = await deliver(url, SECRET, EVENTS[:1], retry=Retry(attempts=3), sleep=recorder(waits))
    assert (outcome.undelivered, outcome.remaining, outcome.replies["503"]) == (1, 0, 3)
    assert outcome.acknowledged == set()
    assert len(waits) == 2


@pytest.mark.parametrize("status", [400, 413, 422, 500])
async def test_play_takes_other_statuses_as_final(status: int) -> None:
    """A refusal is counted by its status and not tried again."""
    async with Receiver(status).server() as server:
        outcome = await deliver(str(server.make_url("/")), SECRET, EVENTS[:1], retry=AT_ONCE)
    assert outcome.replies == {str(status): 1}
    assert (outcome.refused, outcome.applied) == (1, 0)


async def test_play_survives_a_closed_port() -> None:
    """A refused connection counts as no reply, is tried again with a doubling delay, and ends as undelivered."""
    server = Receiver().server()
    async with server:
        url = str(server.make_url("/"))
    waits: list[float] = []
    outcome = await deliver(url, SECRET, EVENTS[:1], retry=Retry(attempts=4), sleep=recorder(waits))
    assert outcome.replies == {"no reply": 4}
    assert waits == [1, 2, 4]
    assert outcome.undelivered == 1


async def test_each_attempt_is_signed_anew() -> None:
    """A retry carries the time of its own attempt, as Stripe's do."""
    receiver = Receiver(503)
    times = iter([4_000_000_000.9, 4_000_000_007.1])
    async with receiver.server() as server:
        url = str(server.make_url("/"))
        await deliver(url, SECRET, EVENTS[:1], clock=lambda: next(times), sleep=recorder([]))
    assert [header.split(",")[0] for header in receiver.headers] == ["t=4000000000", "t=4000000007"]


def test_ctrl_c_keeps_the_count() -> None:
    """SIGINT in the middle of a delivery ends it with what was counted so far, and nothing raises."""

    def interrupt(outcome: Outcome) -> None:
        if len(outcome.acknowledged) == 5:
            os.kill(os.getpid(), signal.SIGINT)

    async def interrupted() -> Outcome:
        async with Receiver().server() as server:
            return await deliver(str(server.make_url("/")), SECRET, EVENTS, concurrency=1, progress=interrupt)

    outcome = asyncio.run(interrupted())
    assert outcome.interrupted
    assert len(outcome.acknowledged) == 5
    assert outcome.remaining == len(EVENTS) - 5

"""Movements and entries of the journal, against a model made from SPEC 9 and by hand."""

import json
import random
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.ledger import donation_objects, journal, kept_facts, payment_times, projection
from daemon.ledger.donation import Donation
from daemon.ledger.facts import FactName, Facts, Family, merge
from daemon.ledger.stripe_events import read
from daemon.simulator.scenarios import shuffled
from daemon.simulator.sender import encode
from daemon.simulator.stripe_objects import Json
from tests.simulator.oracle import FAMILIES, expected_donations
from tests.simulator.random_payments import RandomScenario, random_scenario
from tests.support.journal_model import Sums, expected_entries

AT = 1_760_000_000
RANDOM = st.randoms(use_true_random=False)
WORLD = settings(max_examples=150)


def merged(events: Iterable[Json]) -> Facts:
    return merge({}, *(read(encode(event), livemode=False, hash_key=None).facts or {} for event in events))


def booked(facts: Facts) -> dict[str, tuple[Donation, Sums]]:
    """Each donation with the sums of its entries, by id."""
    subscriptions = facts.get(Family.SUBSCRIPTION, {})
    own, _ = kept_facts.split_attempts(
        kept_facts.redact({family: of for family, of in facts.items() if family != Family.SUBSCRIPTION})
    )
    result = {}
    for id_, objects in donation_objects.by_donation(own, subscriptions).items():
        donation = projection.derive(id_, objects)
        entries = journal.entries(donation, objects)
        result[id_] = donation, {(e.kind, e.object, e.at): e.amount for e in entries}
    return result


def assert_figures(donation: Donation, entries: Sums) -> None:
    """The entries of a donation add up to what it contributes to its ticket's totals."""
    paid = donation.amount or 0, donation.refunded, donation.disputed
    sums = [sum(amount for (of, _, _), amount in entries.items() if of == kind) for kind in journal.KINDS]
    assert tuple(sums) == (paid if donation.paid_at is not None else (0, 0, 0))


def assert_scenario(scenario: RandomScenario, events: Sequence[Json]) -> None:
    donations = booked(merged(events))
    for donation, entries in donations.values():
        assert_figures(donation, entries)
    for end in expected_donations(scenario):
        assert donations[end.donation][1] == expected_entries(end, events)


@WORLD
@given(rng=RANDOM, repeated=st.sampled_from([0.0, 0.5]))
def test_the_models_entries_whatever_the_order(rng: random.Random, repeated: float) -> None:
    """Whatever happened at Stripe, in any order and with duplicates: the model's sums per kind, object and time, and
    together the donation's figures."""
    scenario = random_scenario(rng, ("story-1", "story-2"), key="k", start=AT, longest=40)
    assert_scenario(scenario, shuffled([scenario], rng.randint(0, 99), duplicates=repeated))


@WORLD
@given(rng=RANDOM, longest=st.sampled_from([4, 10, 40]), is_older=st.booleans())
def test_the_short_cut_for_one_payment_finds_the_same_entries(
    rng: random.Random, longest: int, *, is_older: bool
) -> None:
    """After each event of a payment: what the rules for whatever moved find, also where an older release kept only the
    newest captured amount."""
    scenario = random_scenario(rng, ("story-1",), key="k", start=AT, longest=longest)
    facts: Facts = {}
    for event in shuffled([scenario], rng.randint(0, 99)):
        facts = merge(facts, merged([event]))
        if is_older:
            for known in (known for objects in facts.values() for known in objects.values()):
                known.pop(FactName.CAPTURES, None)
        for id_, objects in donation_objects.by_donation(facts, {}).items():
            donation = projection.derive(id_, objects)
            every = journal.every_entry(donation, objects, payment_times.late_failures(objects))
            assert journal.entries(donation, objects) == every


def test_amounts_that_an_older_release_stored_are_captures_at_their_own_times() -> None:
    """It kept the newest amounts of a charge and its PaymentIntent only; where they differ, both are captures."""
    charge = {"taken": [AT, 300], "captured": AT, "payment_intent": [AT, "pi_1"], "paid": AT}
    facts: Any = {"pi": {"pi_1": {"received": [AT + 5, 500], "seen": AT}}, "ch": {"ch_1": charge}}
    [(_, entries)] = journal.derive(facts, {})
    assert [(entry.at, entry.amount) for entry in entries] == [(AT, 300), (AT + 5, 200)]


@cache
def some_scenarios() -> list[RandomScenario]:
    rng = random.Random(31)
    return [random_scenario(rng, ("story-1",), key=f"{n}", start=AT) for n in range(150)]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: "+".join(sorted(family)))
def test_an_endpoint_may_miss_a_family_of_events(family: frozenset[str]) -> None:
    """Without a family of events that others can replace, the entries follow from the rest."""
    rest = [left for scenario in some_scenarios() if (left := scenario.without(family))]
    assert len(rest) > 30
    for scenario in rest:
        assert_scenario(scenario, scenario.events)


# --- By hand


def event(kind: str, at: int, shown: dict[str, Any]) -> Json:
    return {
        "id": f"evt_{kind.replace('.', '_')}_{at}_{shown['id']}",
        "object": "event",
        "type": kind,
        "created": AT + at,
        "livemode": False,
        "data": {"object": shown},
    }


def charge(kind: str, at: int, id_: str = "ch_1", **shown: Any) -> Json:
    usual = {"amount": 1000, "amount_captured": 1000, "amount_refunded": 0, "captured": True, "paid": True}
    own = {"id": id_, "status": "succeeded", "currency": "usd", "payment_intent": "pi_1", "created": AT}
    return event(f"charge.{kind}", at, own | usual | shown)


def failed(at: int, id_: str) -> Json:
    return charge("failed", at, id_, amount_captured=0, captured=False, paid=False, status="failed")


def succeeded(at: int, amount: int = 1000) -> Json:
    return event("payment_intent.succeeded", at, {"id": "pi_1", "amount_received": amount, "currency": "usd"})


def refund(kind: str, at: int, id_: str, amount: int, **shown: Any) -> Json:
    links = {"charge": "ch_1", "payment_intent": "pi_1"}
    own = {"id": id_, "amount": amount, "currency": "usd", "created": AT + at, "status": "pending"}
    return event(f"refund.{kind}", at, links | own | shown)


def dispute(at: int, status: str, amount: int, currency: str = "usd") -> Json:
    links = {"charge": "ch_1", "payment_intent": "pi_1"}
    own = {"id": "du_1", "amount": amount, "currency": currency, "status": status}
    return event("charge.dispute.updated", at, links | own)


def entries_of(*events: Json) -> list[tuple[int, str, str, int]]:
    """The entries of the one donation, by time."""
    [(donation, entries)] = booked(merged(json.loads(json.dumps(events)))).values()
    assert_figures(donation, entries)
    return sorted((at - AT, kind, object_, amount) for (kind, object_, at), amount in entries.items())


def test_a_late_failure_is_reversed_at_its_own_time() -> None:
    """A bank debit that was returned stays in the journal: paid, taken back when its charge failed, and paid again."""
    assert entries_of(
        charge("succeeded", 10), succeeded(10), failed(500, "ch_1"), charge("succeeded", 900, "ch_2"), succeeded(901)
    ) == [
        (10, "payment", "ch_1", 1000),
        (500, "payment", "ch_1", -1000),
        (900, "payment", "ch_2", 1000),
    ]


def test_each_late_failure_has_its_own_payment() -> None:
    """Between two failures a payment counts from the success between them."""
    assert entries_of(
        succeeded(10),
        charge("updated", 12, "ch_1"),
        failed(500, "ch_1"),
        charge("succeeded", 600, "ch_2"),
        failed(800, "ch_2"),
    ) == [
        (10, "payment", "ch_1", 1000),
        (500, "payment", "ch_1", -1000),
        (600, "payment", "ch_2", 1000),
        (800, "payment", "ch_2", -1000),
    ]


def test_further_captures_count_from_the_earliest_event_that_reached_them() -> None:
    """The payment is what was captured by paidAt; what was captured later is a movement of its own."""
    part: dict[str, Any] = {"amount": 5000, "captured": False}
    assert entries_of(
        charge("captured", 10, **part, amount_captured=1000),
        charge("captured", 20, **part, amount_captured=2500),
        charge("updated", 90, amount=5000, amount_captured=4000),
        charge("captured", 30, amount=5000, amount_captured=4000),
        succeeded(30, 4000),
    ) == [(10, "payment", "ch_1", 1000), (20, "payment", "ch_1", 1500), (30, "payment", "ch_1", 1500)]


def test_a_larger_capture_of_either_object_reaches_the_smaller_ones() -> None:
    """Charge and PaymentIntent state captures in any order; each amount counts from the first event that reached it."""
    received = {"id": "pi_1", "amount_received": 5000, "currency": "usd"}
    assert entries_of(
        charge("captured", 10, amount=6000, amount_captured=2000, captured=False),
        charge("updated", 20, amount=6000, amount_captured=6000),
        event("payment_intent.processing", 30, received),
    ) == [(10, "payment", "ch_1", 2000), (20, "payment", "ch_1", 4000)]


def test_what_a_late_failure_took_back_is_no_capture_of_the_next_payment() -> None:
    """After a late failure captures count from the events of the new payment only."""
    part: dict[str, Any] = {"amount": 5000, "amount_captured": 0, "captured": False}
    assert entries_of(
        charge("succeeded", 10, amount=5000, amount_captured=5000),
        succeeded(10, 5000),
        failed(30, "ch_1"),
        charge("succeeded", 38, "ch_2", **part, created=AT + 38),
        charge("updated", 40, "ch_2", amount=5000, amount_captured=3000, captured=False, created=AT + 38),
        charge("captured", 50, "ch_2", amount=5000, amount_captured=5000, created=AT + 38),
        succeeded(50, 5000),
    ) == [
        (10, "payment", "ch_1", 5000),
        (30, "payment", "ch_1", -5000),
        (40, "payment", "ch_2", 3000),
        (50, "payment", "ch_2", 2000),
    ]


def test_a_refund_is_reversed_when_it_fails() -> None:
    """A refund counts from its own `created` until the earliest event that says it failed."""
    assert entries_of(
        charge("succeeded", 10),
        refund("created", 50, "re_1", 300),
        refund("failed", 90, "re_1", 300, status="failed", created=AT + 50),
        refund("updated", 95, "re_1", 300, status="failed", created=AT + 50),
    ) == [(10, "payment", "ch_1", 1000), (50, "refund", "re_1", 300), (90, "refund", "re_1", -300)]


def test_refunds_that_only_the_charge_knows_count_from_its_earliest_snapshot() -> None:
    """What a snapshot counts beyond the known refunds is the charge's own movement."""
    assert entries_of(
        charge("succeeded", 10),
        charge("refunded", 40, amount_refunded=200),
        refund("created", 60, "re_1", 300),
        charge("refunded", 61, amount_refunded=500),
        charge("updated", 99, amount_refunded=600),
    ) == [
        (10, "payment", "ch_1", 1000),
        (40, "refund", "ch_1", 200),
        (60, "refund", "re_1", 300),
        (99, "refund", "ch_1", 100),
    ]


def test_a_refund_that_is_made_again_counts_from_the_snapshot_that_shows_it_again() -> None:
    """Later snapshots that count no more do not move it, although the amount itself was first counted much earlier."""
    failing = {"status": "failed", "created": AT + 20}
    assert entries_of(
        charge("succeeded", 10),
        charge("refunded", 20, amount_refunded=300),
        refund("failed", 30, "re_1", 300, **failing),
        charge("refunded", 40, amount_refunded=300),
        charge("updated", 90, amount_refunded=300),
    ) == [
        (10, "payment", "ch_1", 1000),
        (20, "refund", "re_1", 300),
        (30, "refund", "re_1", -300),
        (40, "refund", "ch_1", 300),
    ]


def test_a_dispute_moves_money_whenever_what_it_takes_changes() -> None:
    """Inquiry, dispute, another amount, won, lost after all: only the changes of what is taken are entries."""
    assert entries_of(
        charge("succeeded", 10),
        dispute(20, "warning_needs_response", 900),
        dispute(30, "needs_response", 900),
        dispute(40, "under_review", 800),
        dispute(50, "won", 800),
        dispute(60, "lost", 800),
    ) == [
        (10, "payment", "ch_1", 1000),
        (30, "dispute", "du_1", 900),
        (40, "dispute", "du_1", -100),
        (50, "dispute", "du_1", -800),
        (60, "dispute", "du_1", 800),
    ]


def test_a_dispute_in_another_currency_takes_the_whole_amount_of_its_time() -> None:
    """What it takes changes with the donation's amount, under the object that changes the amount."""
    assert entries_of(
        charge("succeeded", 10, amount=5000, amount_captured=5000),
        dispute(20, "lost", 100, "eur"),
        failed(30, "ch_1"),
        charge("succeeded", 40, "ch_2", amount=3000, amount_captured=3000, created=AT + 40),
    ) == [
        (10, "payment", "ch_1", 5000),
        (20, "dispute", "du_1", 5000),
        (30, "dispute", "ch_1", -5000),
        (30, "payment", "ch_1", -5000),
        (40, "dispute", "ch_2", 3000),
        (40, "payment", "ch_2", 3000),
    ]


def test_a_limit_changes_another_figure_under_the_movements_own_object() -> None:
    """A refund beside a dispute of the whole amount takes from the disputed figure; both entries are the refund's."""
    assert entries_of(
        charge("succeeded", 10), dispute(20, "lost", 5, currency="eur"), refund("created", 30, "re_1", 400)
    ) == [
        (10, "payment", "ch_1", 1000),
        (20, "dispute", "du_1", 1000),
        (30, "dispute", "re_1", -400),
        (30, "refund", "re_1", 400),
    ]


def test_the_payment_brings_what_came_before_it() -> None:
    """Before paidAt nothing counts; the payment then brings the earlier movements, under its own object."""
    assert entries_of(refund("created", 5, "re_1", 300), charge("succeeded", 10)) == [
        (10, "payment", "ch_1", 1000),
        (10, "refund", "ch_1", 300),
    ]


def test_a_payment_of_an_unknown_amount_brings_what_came_before_it() -> None:
    """Where no event names the amount, nothing limits the refunds, but before paidAt they do not count either."""
    session = {"id": "cs_1", "mode": "payment", "payment_status": "paid", "payment_intent": "pi_1", "currency": "usd"}
    early, late = refund("created", 5, "re_1", 300), refund("created", 20, "re_2", 100)
    assert entries_of(early, event("checkout.session.completed", 10, session), late) == [
        (10, "refund", "pi_1", 300),
        (20, "refund", "re_2", 100),
    ]


def test_a_payment_whose_charge_is_unknown_is_the_donations_own() -> None:
    """Until an event names the charge that took the money, the payment's object is the donation."""
    assert entries_of(succeeded(10)) == [(10, "payment", "pi_1", 1000)]


def test_a_donation_that_was_never_paid_has_no_entries() -> None:
    """Disputes and refunds of what was never paid are no movements of the ledger's money."""
    intent = event("payment_intent.created", 1, {"id": "pi_1", "amount": 1000, "currency": "usd"})
    assert entries_of(intent, refund("created", 5, "re_1", 300), dispute(20, "lost", 900)) == []

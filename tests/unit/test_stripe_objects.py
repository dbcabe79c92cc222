"""The ledger built from events equals the ledger built from Stripe's objects."""

import random
from collections.abc import Iterable, Iterator

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from daemon.ledger import comparison, journal, kept_facts
from daemon.ledger.comparison import Difference, differences
from daemon.ledger.facts import Facts, Family, merge, merge_into
from daemon.ledger.journal import DonationEntries
from daemon.ledger.stripe_events import read
from daemon.ledger.stripe_objects import Reading, facts_of
from daemon.simulator.api_versions import TODAY
from daemon.simulator.balance import of_charge, of_dispute
from daemon.simulator.sender import encode
from daemon.simulator.state import State
from daemon.simulator.stripe_objects import Charge, Dispute, Json, Refund
from tests.simulator.random_payments import RandomScenario, random_scenario

AT = 1_700_000_000
# Endpoints of these versions receive everything that the ledger reads; older ones lack refunds or captured amounts.
VERSIONS = ("2024-09-30.acacia", "2025-03-31.basil", "2026-10-28.endive")

# Which fields may differ, and after which steps of a payment: nothing else may ever differ.
MAY_DIFFER = {
    # A value that was removed at Stripe, or replaced by one that cannot be a ticket, stays in the events.
    "ticket": {"retag", "subscription's metadata", "debit"},
    "last_name": {"rename"},
    "country": {"rename"},
    "email_hash": {"rename", "debit"},
    # No event that is handled reports that an amount was changed before the payment.
    "amount": {"reprice", "hold is raised"},
    "currency": {"reprice"},
    # No event that is handled reports a bank debit by itself before it has succeeded or failed.
    "charge_id": {"debit"},
    # An object contains the time of one capture only, and that of a failure only if money had moved. A failed debit may
    # have kept the amount that it had captured.
    "entry payment": {"capture of a part", "debit bounces"},
    # After several captures the events do not say which part of what was returned had never been captured.
    "refunded_at": {"capture of a part"},
    # A dispute contains its present amount only.
    "entry dispute": {"dispute's amount", "dispute moves", "capture of a part", "debit bounces"},
    "entry refund": {"capture of a part", "debit bounces"},
}


def charge_object(charge: Charge) -> Json:
    """A charge with its balance transactions and refunds, as the API gives it where a call expands them."""
    shown = charge.render(TODAY)
    moved = {each.id: each.render(TODAY) for each in of_charge(charge)}
    shown["balance_transaction"] = next(iter(moved.values()), None)
    shown["failure_balance_transaction"] = moved.get(f"txn_{charge.id[3:]}f")
    shown["refunds"] = {"data": [refund_object(refund) for refund in charge.refunds], "has_more": False}
    return shown


def refund_object(refund: Refund) -> Json:
    moved = {each.id: each.render(TODAY) for each in of_charge(refund.charge)} if refund.charge else {}
    return refund.render(TODAY) | {"failure_balance_transaction": moved.get(f"txn_{refund.id[3:]}f")}


def dispute_object(dispute: Dispute) -> Json:
    moved = [each.render(TODAY) for each in of_dispute(dispute)]
    return dispute.render(TODAY) | {"balance_transactions": moved}


def objects_of(state: State) -> Iterator[Json]:
    """All objects of a payment that are read, as the API gives them."""
    yield from (session.render(TODAY) for session in state.sessions)
    if state.intent is not None:
        charges = state.intent.charges
        yield state.intent.render(TODAY) | ({"latest_charge": charge_object(charges[-1])} if charges else {})
    yield from map(charge_object, state.charges)
    yield from map(refund_object, state.refunds)
    yield from map(dispute_object, state.disputes)
    if state.invoice is not None and state.invoice.status == "paid":
        yield state.invoice.render(TODAY)
    for subscription in (state.subscription, state.invoice.subscription if state.invoice else None):
        if subscription is not None:
            yield subscription.render(TODAY)


def from_events(events: Iterable[Json]) -> Facts:
    facts: Facts = {}
    for event in events:
        merge_into(facts, read(encode(event), livemode=False, hash_key=None).facts or {})
    return kept_facts.redact(facts)


def from_objects(scenario: RandomScenario) -> tuple[Facts, int]:
    """The facts of all objects, and the time of the reading."""
    endpoint = scenario.states[0].endpoint
    reading = Reading(endpoint.at + 1000, livemode=False, hash_key=None, account=endpoint.account)
    facts: Facts = {}
    for state in scenario.states:
        for shown in objects_of(state):
            merge_into(facts, facts_of(Raw(encode(shown)), reading))
    return kept_facts.redact(facts), reading.at


def derived(facts: Facts) -> DonationEntries:
    return journal.derive(facts, facts.get(Family.SUBSCRIPTION, {}))


def unexpected(found: Iterator[Difference], scenario: RandomScenario) -> list[Difference]:
    """The differences that no step of this scenario explains."""
    steps = set(scenario.steps)
    kinds = ((each, " ".join(each.field.split()[:2]) if "entry" in each.field else each.field) for each in found)
    return [each for each, kind in kinds if steps.isdisjoint(MAY_DIFFER.get(kind, ()))]


def is_comparable(scenario: RandomScenario) -> bool:
    """Whether the endpoint received everything, and the ledger derives donations from it."""
    received_all = scenario.states and not scenario.states[0].endpoint.unsubscribed
    return bool(received_all) and all(event["api_version"] in VERSIONS for event in scenario.events)


@given(st.randoms(use_true_random=False))
def test_events_and_objects_give_the_same_ledger(rng: random.Random) -> None:
    """After any payments, the donations and the journal that are derived from all events are those that are derived
    from all objects, but for MAY_DIFFER."""
    for number in range(4):
        scenario = random_scenario(rng, ("story-1", "story-2"), key=f"k{number}", start=AT)
        if is_comparable(scenario):
            facts, at = from_objects(scenario)
            events, objects = derived(from_events(scenario.events)), derived(facts)
            assert {donation.id for donation, _ in events} == {donation.id for donation, _ in objects}
            assert unexpected(differences(events, objects, at), scenario) == []


@given(st.randoms(use_true_random=False))
def test_objects_complete_what_events_have_left_out(rng: random.Random) -> None:
    """Whichever events were lost: with what is new in the objects the ledger shows the same figures as with all events,
    and then nothing is new in the objects any more."""
    scenario = random_scenario(rng, ("story-1", "story-2"), key="k", start=AT)
    if not is_comparable(scenario):
        return
    known = from_events([event for event in scenario.events if rng.random() > 0.4])
    stated, at = from_objects(scenario)
    completed = kept_facts.redact(merge(known, comparison.news(known, stated, with_hashes=True)))
    again = comparison.news(completed, stated, with_hashes=True)
    assert not comparison.has_news(completed, again)
    figures = [
        each
        for each in differences(derived(from_events(scenario.events)), derived(completed), at)
        if each.field in {"donation", "amount", "refunded", "disputed", "status"}
    ]
    assert unexpected(iter(figures), scenario) == []


@given(st.randoms(use_true_random=False))
def test_nothing_is_new_where_all_events_were_received(rng: random.Random) -> None:
    """Objects add nothing that can be seen to a ledger that has received all events, and no time of the reading."""
    scenario = random_scenario(rng, ("story-1", "story-2"), key="k", start=AT)
    if is_comparable(scenario):
        known = from_events(scenario.events)
        stated, at = from_objects(scenario)
        completed = kept_facts.redact(merge(known, comparison.news(known, stated, with_hashes=True)))
        found = list(differences(derived(known), derived(completed), at))
        assert unexpected(iter(found), scenario) == []

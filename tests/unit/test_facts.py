"""Shapes that no payment of the simulator takes, but Stripe's API allows."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.ledger import operator_actions
from daemon.ledger.donation_objects import SOURCES
from daemon.ledger.facts import NEWEST, RULES, FactName, Facts, Family, ObjectFacts, checked, merge, owners
from daemon.ledger.kept_facts import redact
from daemon.ledger.projection import donations
from daemon.ledger.stripe_events import HANDLERS, CannotApply, NotAnEvent, read
from daemon.simulator import scenarios
from daemon.simulator.sender import encode

AT = 1_760_000_000
EVENT = {"id": "evt_1", "object": "event", "type": "payment_intent.created", "created": AT, "livemode": False}
PAYMENT = {"id": "pi_1", "amount": 500, "currency": "usd"}


def facts_of(event_type: str, stripe_object: dict[str, Any], **envelope: object) -> Facts:
    event = {"id": "evt_1", "object": "event", "type": event_type, "created": AT, "livemode": False}
    body = json.dumps({**event, **envelope, "data": {"object": stripe_object}})
    return read(body.encode(), livemode=False, hash_key=None).facts or {}


def charge(id_: str, *, paid: bool, amount: int = 500) -> dict[str, Any]:
    status = "succeeded" if paid else "failed"
    taken = amount if paid else 0
    named = {"billing_details": {"name": f"Ada {id_.title().replace('_', '')}"}}
    figures = {"amount": amount, "amount_captured": taken, "amount_refunded": 0, "currency": "usd", "created": AT}
    return {"id": id_, **named, **figures, "paid": paid, "captured": paid, "status": status}


def test_every_element_of_charges_data_speaks() -> None:
    """The charge that took the money counts wherever it stands in the list."""
    charges = [charge("ch_a", paid=False), charge("ch_b", paid=True, amount=700), charge("ch_c", paid=False)]
    facts = facts_of("payment_intent.created", {"id": "pi_1", "amount": 700, "charges": {"data": charges}})
    [donation] = donations(facts)
    assert (donation.amount, donation.charge_id, donation.last_name, donation.paid_at) == (700, "ch_b", "ChB", AT)


def test_a_session_naming_two_payments_belongs_to_the_newest() -> None:
    """The PaymentIntent named last has the session; the other is a donation of its own."""
    session = {"id": "cs_1", "mode": "payment", "created": AT - 9, "amount_total": 500, "currency": "usd"}
    old = facts_of("checkout.session.completed", {**session, "payment_intent": "pi_old"}, created=AT)
    new = facts_of("checkout.session.completed", {**session, "payment_intent": "pi_new"}, created=AT + 1)
    for facts in (merge(old, new), merge(new, old)):
        assert [(d.id, d.session_id) for d in donations(facts)] == [("pi_new", "cs_1"), ("pi_old", None)]


@pytest.mark.parametrize("expanded", [{"id": "pi_1", "object": "payment_intent"}, "pi_1"])
def test_a_reference_may_be_expanded(expanded: object) -> None:
    """An id and the object itself mean the same."""
    facts = facts_of("charge.succeeded", {**charge("ch_1", paid=True), "payment_intent": expanded})
    assert [donation.id for donation in donations(facts)] == ["pi_1"]


def test_what_only_refunds_and_disputes_know_does_not_depend_on_order() -> None:
    """Currencies named only by refunds: the newest counts, whatever came first."""
    refunds = [
        facts_of("refund.created", {"id": f"re_{n}", "amount": 5, "currency": unit, "charge": "ch_1"}, created=AT + n)
        for n, unit in enumerate(("eur", "usd"))
    ]
    for facts in (merge(*refunds), merge(*reversed(refunds))):
        assert donations(facts)[0].currency == "USD"


def test_an_id_of_two_objects_is_refused() -> None:
    """An event in which one id names a charge and a PaymentIntent is no event of Stripe's."""
    with pytest.raises(CannotApply, match="one id names two objects"):
        facts_of("charge.updated", {**charge("x_1", paid=True), "payment_intent": "x_1"})


def test_an_operator_reaches_a_donation_that_has_the_id_of_an_invoice() -> None:
    """An assignment moves it and an erasure removes its donor, whichever of the two objects was named first."""
    intent = facts_of("payment_intent.succeeded", {**PAYMENT, "id": "won", "receipt_email": "ada@example.org"})
    invoice = facts_of("invoice.paid", {"id": "won"})
    for facts in (merge(intent, invoice), merge(invoice, intent)):
        done: Any = {"actor": "test", "at_us": 1}
        moved = merge(facts, operator_actions.assign(facts, "won", "story-2", **done).facts)
        erased = redact(merge(facts, operator_actions.erase(facts, "won", **done).facts))
        assert [(d.ticket, d.email_hash is None) for d in donations(moved)] == [("story-2", False)]
        assert [(d.ticket, d.email_hash is None) for d in donations(erased)] == [(None, True)]


def test_a_payment_only_named_is_as_old_as_the_event() -> None:
    """A donation of which nothing is known but its id was created when it was first named."""
    session = {"id": "cs_1", "mode": "payment", "created": AT - 9}
    old = facts_of("checkout.session.completed", {**session, "payment_intent": "pi_old"}, created=AT)
    new = facts_of("checkout.session.completed", {**session, "payment_intent": "pi_new"}, created=AT + 1)
    assert {d.id: d.created_at for d in donations(merge(old, new))} == {"pi_new": AT - 9, "pi_old": AT}


@pytest.mark.parametrize("event_type", ["v2.core.account[requirements].updated", "v1.billing.meter.no_meter_found"])
def test_thin_events_change_nothing(event_type: str) -> None:
    """Whatever their type is called, they are events."""
    body = {"id": "evt_1", "object": "v2.core.event", "type": event_type, "created": "2026-10-28T10:00:00Z"}
    event = read(json.dumps(body).encode(), livemode=False, hash_key=None)
    assert (event.type, event.facts) == (event_type, None)


@pytest.mark.parametrize("field", ["id", "currency", "metadata"])
def test_a_reason_names_no_byte_of_the_body(field: str) -> None:
    """Text that is no UTF-8 can't be applied; the reason does not say which byte it was that a donor's name held."""
    text = json.dumps({**PAYMENT, field: "canary" if field != "metadata" else {"ticketId": "canary"}})
    body = json.dumps({**EVENT, "data": {"object": 0}}).replace("0}", text + "}").encode()
    with pytest.raises(CannotApply) as caught:
        read(body.replace(b"canary", b"Jos\xe9"), livemode=False, hash_key=None)
    assert caught.value.reason == "a text is not UTF-8"


@given(st.permutations(["re_1", "x_1"]))
def test_no_order_decides_even_where_ids_are_the_same(ids: list[str]) -> None:
    """A refund with the id of another refund's charge, as at Stripe none has: no order of keys decides."""
    refunds: dict[str, ObjectFacts] = {
        "re_1": {FactName.SEEN: AT, FactName.CHARGE: [AT, "x_1"]},
        "x_1": {FactName.SEEN: AT, FactName.PAYMENT_INTENT: [AT, "pi_1"]},
    }
    named: ObjectFacts = {FactName.SEEN: AT}
    found = owners(
        {
            Family.PAYMENT_INTENT: {"pi_1": named},
            Family.CHARGE: {"x_1": named},
            Family.REFUND: {id_: refunds[id_] for id_ in ids},
        }
    )
    assert found == {"pi_1": "pi_1", "x_1": "pi_1", "re_1": "x_1"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(st.sampled_from(sorted(HANDLERS)), JSON, JSON, JSON)
def test_any_object_is_applied_or_refused(event_type: str, mode: object, amount: object, metadata: object) -> None:
    """Whatever stands in an event of a handled type, it becomes donations or is refused; nothing else happens."""
    stripe_object = {"id": "x_1", "payment_intent": "pi_1", "amount": amount, "mode": mode, "metadata": metadata}
    try:
        facts = facts_of(event_type, {**stripe_object, "status": mode, "latest_charge": amount})
    except (CannotApply, NotAnEvent):
        return
    assert merge(facts, facts) == facts
    assert bool(donations(facts)) is bool(facts)
    for donation in donations(facts):
        assert donation.amount is None or 0 <= donation.refunded + donation.disputed <= donation.amount


def test_facts_are_stored_under_the_names_and_in_the_order_of_the_first_release() -> None:
    """What stands in the database is this text, byte for byte, whatever the names are called in the code."""
    named = {
        "billing_details": {"name": "Ada Byron", "address": {"country": "gb"}},
        "metadata": {"ticketId": "story-1"},
    }
    refunded = {**charge("ch_1", paid=True), **named, "amount_refunded": 200, "invoice": "in_1"}
    facts = facts_of("charge.refunded", {**refunded, "payment_intent": "pi_1"})
    assert msgspec.json.encode(facts).decode() == (
        '{"pi":{"pi_1":{"seen":1760000000}},"ch":{"ch_1":{"seen":1760000000,"payment_intent":[1760000000,"pi_1"],'
        '"amount":[1760000000,500],"taken":[1760000000,500],"returned":[1760000000,200],"flag":[1760000000,true],'
        '"status":[1760000000,"succeeded"],"created":[1760000000,1760000000],"currency":[1760000000,"USD"],'
        '"ticket":[1760000000,"story-1"],"last_name":[1760000000,"Byron"],"country":[1760000000,"GB"],'
        '"invoice":[1760000000,"in_1"],"captured":1760000000,"captures":{"500":1760000000},"returned_least":200,'
        '"refunds":{"200":1760000000},"snapshots":{"1760000000":[1760000000,200]},'
        '"refund_events":{"200":1760000000}}},"in":{"in_1":{}}}'
    )


def test_each_fact_of_each_event_has_a_rule_and_the_form_that_it_asks_for() -> None:
    """The table of rules is complete for whatever scenarios send, and `verify` accepts all of it."""
    for payment in scenarios.generate(3, 200, ["story-1"], now=AT):
        for event in payment.events:
            facts = read(encode(event), livemode=False, hash_key=None).facts or {}
            for family, objects in facts.items():
                assert not [name for known in objects.values() for name in known if name not in RULES[family]]
            assert checked(msgspec.json.decode(msgspec.json.encode(facts))) == facts


def test_what_is_derived_comes_from_facts_that_have_a_rule() -> None:
    """No source of a donation's fields is a fact that its family never has."""
    sources = {source for of_field in SOURCES.values() for source in of_field} - {(Family.OPERATOR, FactName.ASSIGNED)}
    assert not [(family, name) for family, name in sources if RULES[family].get(name) is not NEWEST]


@pytest.mark.parametrize(
    ("wrong", "in_the_place_of"),
    [
        (7, FactName.AMOUNT),
        ([AT, 1], FactName.PAID),
        ([1, 2, 3], FactName.STATUS),
        ({"500": [AT, 1]}, FactName.CAPTURES),
    ],
)
def test_a_stored_fact_of_another_form_is_malformed(wrong: object, in_the_place_of: FactName) -> None:
    """A number where a pair belongs, a pair where a time belongs, a list that is too long, a map of other facts."""
    with pytest.raises(ValueError, match="Expected"):
        checked({"ch": {"ch_1": {in_the_place_of: wrong}}})


def test_facts_that_only_a_newer_release_knows_are_kept_and_merged_in_any_order() -> None:
    """Returning to this release after an upgrade loses nothing of what the newer one has stored meanwhile."""
    stored: Any = {"ch": {"ch_1": {"new": [AT, 1], "since": AT, "per": {"a": AT}}}, "wr": {"wr_1": {"x": [AT, 2]}}}
    later: Any = {"ch": {"ch_1": {"new": [AT + 1, 0], "since": AT - 1, "per": {"a": AT - 1, "b": AT}}}}
    merged = merge(stored, later)
    assert merged == merge(later, stored) == merge(merged, stored, later)
    assert merged == {**later, "wr": {"wr_1": {"x": [AT, 2]}}}
    assert checked(merged) == merged

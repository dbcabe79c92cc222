"""Single rules of the projection that neither the cases nor the random payments test by themselves."""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest

from daemon.ledger import kept_facts, operator_actions, projection
from daemon.ledger.changes import ReceivedEvent
from daemon.ledger.donation import Donation
from daemon.ledger.facts import DISPUTE_STAGES, merge
from daemon.ledger.reader import Ledger
from daemon.ledger.recorder import Recorder
from daemon.ledger.stripe_events import StripeEvent, read
from daemon.simulator.sender import encode
from sql.database import Database

AT = 1_793_000_000
TICKET = {"ticketId": "story-1"}
Json = dict[str, Any]

INTENT: Json = {"id": "pi_1", "amount": 5000, "currency": "usd", "created": AT, "metadata": TICKET}
DONOR = {"name": "Ada Example", "email": "ada@example.org", "address": {"country": "US"}}
CHARGE: Json = {"id": "ch_1", "amount": 5000, "currency": "usd", "created": AT, "payment_intent": "pi_1"}
TOOK: Json = {**CHARGE, "amount_captured": 5000, "captured": True, "paid": True, "status": "succeeded"}
FAILED: Json = {**CHARGE, "amount_captured": 0, "captured": False, "paid": False, "status": "failed"}


def event(event_type: str, created: int, stripe_object: Json) -> StripeEvent:
    """An event as the webhook reduces it."""
    id_ = f"evt_{event_type}_{created}_{stripe_object['id']}".replace(".", "_")
    body = {"id": id_, "type": event_type, "created": created, "livemode": False, "data": {"object": stripe_object}}
    return read(encode(body), livemode=False, hash_key=None)


def derived(events: Sequence[StripeEvent]) -> Donation:
    """The one donation that these events add up to, the same in every order."""
    found = {
        tuple(projection.donations(kept_facts.redact(merge({}, *(each.facts or {} for each in order)))))
        for order in itertools.permutations(events)
    }
    [[donation]] = found
    return donation


def test_a_returned_bank_debit_gives_the_money_back() -> None:
    """A charge that took money and failed later holds none: nothing is paid, and no donor is named."""
    events = [
        event("charge.updated", AT, {**TOOK, "paid": False, "status": "pending", "billing_details": DONOR}),
        event("charge.succeeded", AT + 9, {**TOOK, "billing_details": DONOR}),
        event("payment_intent.succeeded", AT + 9, {**INTENT, "amount_received": 5000}),
    ]
    paid = derived(events)
    assert (paid.status, paid.paid_at, paid.last_name, paid.country) == ("PAID", AT + 9, "Example", "US")
    returned = derived([*events, event("charge.failed", AT + 99, {**TOOK, "paid": False, "status": "failed"})])
    assert (returned.status, returned.paid_at, returned.last_name, returned.country) == ("FAILED", None, None, None)


def test_a_new_attempt_after_a_late_failure_counts_from_its_own_time() -> None:
    """Successes before the failure do not count; the newest one after it does."""
    donation = derived(
        [
            event("payment_intent.succeeded", AT + 9, {**INTENT, "amount_received": 5000}),
            event("charge.succeeded", AT + 9, TOOK),
            event("charge.failed", AT + 99, {**TOOK, "paid": False, "status": "failed"}),
            event("payment_intent.succeeded", AT + 500, {**INTENT, "amount_received": 5000}),
        ]
    )
    assert (donation.status, donation.paid_at) == ("PAID", AT + 500)


def test_the_amount_is_the_money_received_and_not_what_the_session_asked_for() -> None:
    """As after a partial capture: the larger of what the PaymentIntent received and what the charge took (SPEC 3)."""
    session = {
        "id": "cs_1",
        "payment_intent": "pi_1",
        "amount_total": 5000,
        "currency": "usd",
        "payment_status": "paid",
    }
    asked = event("checkout.session.completed", AT + 9, {**session, "mode": "payment"})
    received = event("payment_intent.succeeded", AT + 9, {**INTENT, "amount_received": 3000})
    assert derived([asked]).amount == 5000
    assert derived([asked, received]).amount == 3000
    for taken, stands in ((2000, 3000), (4000, 4000)):
        took = event("charge.succeeded", AT + 9, {**TOOK, "amount_captured": taken})
        assert derived([asked, received, took]).amount == stands


def test_a_failed_charge_names_no_donor() -> None:
    """Card testers use other people's cards: neither name, country nor hash of a failed charge is kept."""
    donation = derived(
        [
            event("charge.failed", AT, {**FAILED, "billing_details": DONOR}),
            event("charge.succeeded", AT + 9, {**TOOK, "id": "ch_2"}),
        ]
    )
    assert (donation.status, donation.last_name, donation.country, donation.email_hash) == ("PAID", None, None, None)


@pytest.mark.parametrize("status", ["arbitration", "x" * 200, "Ada Example", ""])
def test_an_unknown_dispute_status_counts_as_open(status: str) -> None:
    """It takes the money and shows DISPUTED, later statuses go on from it, and free text is not kept."""
    dispute = {"id": "dp_1", "amount": 2000, "currency": "usd", "payment_intent": "pi_1"}
    paid = [event("charge.succeeded", AT, TOOK)]
    unknown = event("charge.dispute.updated", AT + 9, {**dispute, "status": status})
    assert unknown.unknown_status == "dispute"
    assert "Ada Example" not in str(unknown.facts)
    donation = derived([*paid, unknown])
    assert (donation.status, donation.disputed) == ("DISPUTED", 2000)
    before = event("charge.dispute.created", AT + 9, {**dispute, "status": "needs_response"})
    won = event("charge.dispute.closed", AT + 10, {**dispute, "status": "won"})
    assert derived([*paid, before, unknown]).disputed == 2000
    assert (derived([*paid, unknown, won]).status, derived([*paid, unknown, won]).disputed) == ("PAID", 0)


def test_of_two_unknown_statuses_in_one_second_the_larger_amount_stands() -> None:
    """Ties go to the later stage, then to the larger amount, never to a text."""
    dispute = {"id": "dp_1", "currency": "usd", "payment_intent": "pi_1"}
    said = [
        event("charge.dispute.updated", AT + 9, {**dispute, "status": "zeta", "amount": 1000}),
        event("charge.dispute.closed", AT + 9, {**dispute, "status": "alpha", "amount": 2000}),
    ]
    assert derived([event("charge.succeeded", AT, TOOK), *said]).disputed == 2000


def test_every_dispute_status_is_applied() -> None:
    """None of the list is unknown, and each takes the money or does not."""
    takes = {"needs_response", "under_review", "appeal_needs_response", "appeal_under_review", "lost"}
    dispute = {"id": "dp_1", "amount": 2000, "currency": "usd", "payment_intent": "pi_1"}
    for status in DISPUTE_STAGES:
        said = event("charge.dispute.updated", AT + 9, {**dispute, "status": status})
        assert said.unknown_status is None
        assert derived([event("charge.succeeded", AT, TOOK), said]).disputed == (2000 if status in takes else 0)


def test_an_unknown_refund_status_stands_and_is_reported() -> None:
    """Only failed and canceled refunds are void."""
    refund = {"id": "re_1", "amount": 700, "currency": "usd", "payment_intent": "pi_1", "status": "on_its_way"}
    said = event("refund.updated", AT + 9, refund)
    assert said.unknown_status == "refund"
    assert derived([event("charge.succeeded", AT, TOOK), said]).refunded == 700


@pytest.mark.parametrize(
    ("event_type", "stripe_object"),
    [
        ("refund.created", {"id": "re_1", "amount": 500, "status": "succeeded", "charge": None}),
        ("charge.dispute.created", {"id": "dp_1", "amount": 500, "status": "lost"}),
        ("charge.succeeded", {**TOOK, "source_transfer": "tr_1"}),
        ("checkout.session.completed", {"id": "cs_1", "mode": "setup"}),
        ("checkout.session.completed", {"id": "cs_1", "mode": "subscription", "subscription": None}),
        ("customer.subscription.created", {"id": "sub_1", "metadata": {"ticketId": "not a ticket"}}),
        ("invoice_payment.paid", {"id": "inpay_1", "invoice": "in_1", "payment": {"type": "payment_record"}}),
    ],
)
def test_what_can_never_belong_to_a_donation_changes_nothing(event_type: str, stripe_object: Json) -> None:
    """It is acknowledged with a reason, and is no failure that waits for a person."""
    said = event(event_type, AT, stripe_object)
    assert said.facts is None
    assert said.reason


@pytest.mark.parametrize("place", ["description", "\\ud83d", "statement_descriptor"])
@pytest.mark.parametrize("text", ["\\ud83d", "ok \\uDE00 then", "\\\\ud83d is no escape", "\\ud83d\\ud83d\\ude00"])
def test_text_that_is_no_unicode_costs_nothing_where_it_is_not_read(place: str, text: str) -> None:
    """Half of a surrogate pair in a value or a name of a field: the event counts as if it were not there."""
    charge = encode(TOOK).decode().replace('"id"', f'"{place}":"{text}","id"', 1)
    body = f'{{"id":"evt_1","type":"charge.succeeded","created":{AT},"livemode":false,"data":{{"object":{charge}}}}}'
    assert read(body.encode(), livemode=False, hash_key=None).facts == event("charge.succeeded", AT, TOOK).facts


async def test_totals_do_not_contain_a_donation_that_was_assigned_to_another_ticket(database: Database) -> None:
    """After an assignment the former ticket's totals are those of a ticket that never had the donation; only the number
    of the ledger's last entry differs."""
    await database.fetch("INSERT INTO recording_tickets (id) VALUES ('story-1'), ('story-2')")
    recorder, ledger = Recorder(database), Ledger(database)

    async def totals() -> list[object]:
        return [found and found.ticket for found in [await ledger.totals(each) for each in ("story-1", "story-2")]]

    none = await totals()
    await recorder.record(
        [ReceivedEvent(event("charge.succeeded", AT, TOOK)), ReceivedEvent(event("charge.updated", AT, TOOK))]
    )
    unassigned = await totals()
    assert unassigned == none
    facts = await ledger.facts_of("pi_1")
    assert facts is not None
    await recorder.record([operator_actions.assign(facts, "pi_1", "story-1", actor="alex", at_us=1)])
    assert await totals() != none
    await recorder.record([operator_actions.assign(facts, "pi_1", "story-2", actor="alex", at_us=2)])
    assert [(await totals())[0]] == none[:1]

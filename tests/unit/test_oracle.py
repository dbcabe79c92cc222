"""The simulator's expectations, compared with payments whose end is known without them."""

import random
from collections.abc import Sequence

import pytest

from daemon.simulator import monthly_payment
from daemon.simulator.api_versions import APIS, Api
from daemon.simulator.payment import Payment
from daemon.simulator.scenarios import DONORS, card_testing
from daemon.simulator.state import Inputs
from daemon.simulator.stripe_objects import DAY_S, NO_DONOR, Donor, ticket_of
from tests.simulator.known_payments import (
    ANN,
    BEN,
    KNOWN_PAYMENTS,
    RECEIVES_ALL,
    START,
    TICKET,
    end_of,
    endpoint,
    payment,
)
from tests.simulator.oracle import INVOICE_PAID, expect, only_donation
from tests.simulator.random_steps import take_step
from tests.simulator.random_walk import NOT_TICKETS, OPENINGS, RandomWalk
from tests.support.model_ledger import as_row, derived


@pytest.mark.parametrize("name", KNOWN_PAYMENTS)
def test_the_expectations_of_a_known_payment(name: str) -> None:
    """The expectations of a payment are those that its case names; its ticket is story-1 unless it says otherwise."""
    make, wanted = KNOWN_PAYMENTS[name]
    end = end_of(make())
    assert {field: getattr(end, field) for field in {"ticket": "", **wanted}} == {"ticket": "story-1", **wanted}


@pytest.mark.parametrize("name", KNOWN_PAYMENTS)
def test_the_ledger_shows_a_known_payment_in_any_order(name: str) -> None:
    """In twenty orders, with repetitions."""
    of = KNOWN_PAYMENTS[name][0]()
    rng = random.Random(name)
    for _ in range(20):
        events = rng.sample(of.endpoint.events * 2, 2 * len(of.endpoint.events))
        assert derived(events) == [as_row(end_of(of))]


def test_a_refund_from_a_cash_balance_is_no_donation() -> None:
    """cash_balance_refund: it names neither a charge nor a PaymentIntent."""
    of = payment(1099, "eur")
    of.refund_cash_balance(1099)
    assert [event["type"] for event in of.endpoint.events] == ["refund.created", "refund.updated"]
    assert expect(of.state) is None


# --- Late failures


def returned(retries: int, *, donor: Donor = ANN, unsubscribed: frozenset[str] = RECEIVES_ALL) -> Payment:
    """Debits that succeed and are called back, each a day after the other."""
    of = payment(5000, donor=donor, unsubscribed=unsubscribed)
    of.create_intent("us_bank_account")
    for _ in range(retries):
        of.clear_debit(of.start_debit())
        of.at += DAY_S
        of.return_debit(of.state.charges[-1])
    return of


def test_a_returned_debit_is_not_paid() -> None:
    """A charge that took money and failed later holds none; the donor is shown no more."""
    end = end_of(returned(1))
    assert (end.status, end.paid_at, end.donor, end.country, end.email) == ("FAILED", None, None, None, None)


@pytest.mark.parametrize("retries", [1, 2])
def test_a_success_after_the_last_late_failure_counts(retries: int) -> None:
    """The successes before a late failure do not count, a later one does, and its charge names the donor."""
    of = returned(retries)
    of.at += DAY_S
    of.inputs.billing = BEN
    of.clear_debit(of.start_debit())
    end = end_of(of)
    assert (end.status, end.paid_at, end.amount_minor, end.donor) == ("PAID", of.at, 5000, "Jones")


def test_a_late_failure_needs_its_charge() -> None:
    """An endpoint that receives no charges knows of the success only."""
    charges = frozenset({"charge.succeeded", "charge.failed", "charge.updated"})
    assert end_of(returned(1, unsubscribed=charges)).status == "PAID"


# --- Monthly donations


def monthly(api: Api, *, session_ticket: bool, subscription_ticket: bool, receives: frozenset[str]) -> list[Payment]:
    """Three months, the second declined at first; the subscription's metadata are edited after the second."""
    of = endpoint(api, receives)
    session_metadata = TICKET if session_ticket else {}
    start = Payment(of, Inputs(session_metadata=session_metadata), amount=1500, currency="usd")
    session = start.open_session("subscription")
    subscription = monthly_payment.subscribe(of, session, TICKET if subscription_ticket else {})
    months: list[Payment] = []
    for month in range(3):
        of.at = START + month * 30 * DAY_S
        months.append(Payment(of, Inputs(customer=BEN, billing=NO_DONOR), amount=1500, currency="usd"))
        monthly_payment.bill(months[month], subscription)
        if month == 1:
            months[1].decline()
            of.at += DAY_S
        months[month].succeed()
        if month == 0:
            start.complete_session(session)
        if month == 1:
            monthly_payment.retag(of, subscription, {"ticketId": "story-9"})
    monthly_payment.end(of, subscription)
    assert expect(start.state) is None
    return months


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.version)
def test_each_month_is_a_donation(api: Api) -> None:
    """recurring_ticket_on_subscription_old, in every version: the invoice of each month has a snapshot of its own."""
    months = monthly(api, session_ticket=True, subscription_ticket=True, receives=RECEIVES_ALL)
    ends = [end_of(month) for month in months]
    assert [end.ticket for end in ends] == ["story-1", "story-1", "story-9"]
    assert [end.status for end in ends] == ["PAID"] * 3
    assert [end.paid_at for end in ends] == [START, START + 31 * DAY_S, START + 60 * DAY_S]
    assert {(end.amount_minor, end.donor, end.email, end.country, end.session_id) for end in ends} == {
        (1500, "Jones", "ben@example.uk", None, None)
    }


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.version)
def test_all_donations_follow_the_subscriptions_own_ticket(api: Api) -> None:
    """Where no invoice has a snapshot of it, the subscription's newest ticket counts for all months."""
    months = monthly(api, session_ticket=True, subscription_ticket=False, receives=RECEIVES_ALL)
    assert [end_of(month).ticket for month in months] == ["story-9"] * 3


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.version)
def test_the_sessions_ticket_counts_for_all_months(api: Api) -> None:
    """Where no event of the subscription is received, its Checkout Session names the ticket."""
    unsubscribed = frozenset(f"customer.subscription.{name}" for name in ("created", "updated", "deleted"))
    months = monthly(api, session_ticket=True, subscription_ticket=False, receives=unsubscribed)
    assert [end_of(month).ticket for month in months] == ["story-1", "story-1", "story-9"]


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.version)
def test_one_event_of_an_invoice_is_enough(api: Api) -> None:
    """`invoice.payment_succeeded` says all that `invoice.paid` does."""
    months = monthly(api, session_ticket=False, subscription_ticket=True, receives=INVOICE_PAID)
    assert [end_of(month).ticket for month in months] == ["story-1", "story-1", "story-9"]


def test_an_invoice_without_a_subscription_names_its_donor() -> None:
    """A one-off invoice is paid by a donation like any other, which names its own ticket."""
    inputs = Inputs(customer=BEN, charge_metadata=TICKET)
    of = Payment(endpoint(), inputs, amount=700, currency="usd")
    monthly_payment.bill(of, None)
    of.succeed()
    end = end_of(of)
    assert (end.ticket, end.status, end.donor, end.email) == ("story-1", "PAID", "Jones", "ben@example.uk")


# --- Who and for what


def test_a_failed_attempt_names_no_donor() -> None:
    """However many cards were tried, only the one that was charged names the donor."""
    scenario = card_testing(1000, "story-1", at=START, paid=False)
    assert len(scenario.events) == 2001
    assert (
        only_donation(scenario).status,
        only_donation(scenario).donor,
        only_donation(scenario).country,
        only_donation(scenario).email,
    ) == ("FAILED", None, None, None)
    assert only_donation(card_testing(3, "story-1", at=START)).status == "PAID"


@pytest.mark.parametrize("text", [*NOT_TICKETS, "x.y", "é", "story 1", "1" * 9, "1" * 64])
def test_what_cannot_be_a_ticket(text: str) -> None:
    """Dots, spaces, other letters, more than 64 characters, and more than 8 digits are no ticket id."""
    assert ticket_of(text) is None


@pytest.mark.parametrize("text", ["a", "A_b-9", "12345678", "123456789a", "-", "x" * 64])
def test_what_can_be_a_ticket(text: str) -> None:
    """Letters, digits, hyphens and underscores, up to 64."""
    assert ticket_of(text) == text


# --- The expectations against Stripe's own state


def payments_of(seed: int) -> Sequence[Payment]:
    """The payments of a random walk."""
    walk = RandomWalk(random.Random(seed), ["story-1"], DONORS, f"o{seed}")
    walk.begin(walk.rng.choice(OPENINGS), START, livemode=False)
    for _ in range(24):
        take_step(walk)
    return walk.payments


def test_the_money_is_what_stripe_has() -> None:
    """Where all is received, and in versions that report captures: the money shown is what the objects hold."""
    checked = 0
    for of in (of for seed in range(800) for of in payments_of(seed)):
        end, state = expect(of.state), of.state
        if end is None or state.endpoint.unsubscribed or not state.endpoint.api.has_amount_captured:
            continue
        holding = [charge for charge in state.charges if charge.holds_money]
        checked += len(holding)
        assert [end.amount_minor] * len(holding) == [charge.amount_captured for charge in holding]
        assert (end.paid_at is not None) == bool(holding)
        assert end.refunded_minor == sum(charge.sent_back for charge in state.charges)
        assert (end.disputed_minor > 0) <= any(dispute.takes_money for dispute in state.disputes)
        assert end.refunded_minor + end.disputed_minor <= (end.amount_minor or 0)
    assert checked > 300

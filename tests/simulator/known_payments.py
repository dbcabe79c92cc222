"""Payments whose end is known without the simulator's expectations.

Those named after a case are those of the acceptance cases (public reports and Stripe's documentation), with the figures
that the cases expect.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import count

from daemon.simulator.api_versions import TODAY, Api
from daemon.simulator.dispute_statuses import UNKNOWN_STATUS
from daemon.simulator.payment import Payment
from daemon.simulator.state import Endpoint, Inputs
from daemon.simulator.stripe_objects import DAY_S, NO_DONOR, Donor
from tests.simulator.oracle import Expected, expect

START = 1_793_000_000
TICKET = {"ticketId": "story-1"}
ANN = replace(NO_DONOR, name="Ann Smith", last_name="Smith", country="IE", email="Ann@example.ie")
BEN = replace(NO_DONOR, name="Ben Jones", last_name="Jones", country="GB", email="ben@example.uk")
RECEIVES_ALL: frozenset[str] = frozenset()
ONLY_REFUNDS = frozenset({"charge.refunded", "charge.updated"})


def endpoint(api: Api = TODAY, unsubscribed: frozenset[str] = RECEIVES_ALL) -> Endpoint:
    """An endpoint at the first second of all payments."""
    numbers = count(1)
    return Endpoint(lambda prefix: f"{prefix}{next(numbers)}", START, api, unsubscribed=unsubscribed)


def payment(
    amount: int,
    currency: str = "usd",
    *,
    api: Api = TODAY,
    unsubscribed: frozenset[str] = RECEIVES_ALL,
    donor: Donor = ANN,
) -> Payment:
    """A payment that names its ticket on the PaymentIntent and the charge."""
    inputs = Inputs(billing=donor, intent_metadata=TICKET, charge_metadata=TICKET)
    return Payment(endpoint(api, unsubscribed), inputs, amount=amount, currency=currency)


def held(amount: int, unsubscribed: frozenset[str] = RECEIVES_ALL) -> Payment:
    """A payment whose card is authorised."""
    of = payment(amount, unsubscribed=unsubscribed)
    of.create_intent(manual=True)
    of.hold()
    return of


def paid(amount: int, currency: str = "usd") -> Payment:
    """A payment whose card was charged."""
    of = payment(amount, currency)
    of.create_intent()
    of.succeed()
    return of


def debit(amount: int, currency: str = "usd") -> Payment:
    """A payment by bank debit that is under way."""
    of = payment(amount, currency)
    of.create_intent("us_bank_account")
    of.start_debit()
    return of


def end_of(of: Payment) -> Expected:
    """What the ledger must show of it."""
    end = expect(of.state)
    assert end is not None
    return end


# --- The payments of the cases


def multicapture(refund: int, *, counts_release: bool, unsubscribed: frozenset[str] = RECEIVES_ALL) -> Payment:
    """1000 are authorised, 700 and 200 captured; then some is refunded."""
    of = held(1000, unsubscribed)
    [charge] = of.state.charges
    of.at += DAY_S
    of.capture_part(charge, 700)
    of.at += DAY_S
    of.capture(charge, 200, counts_release=counts_release)
    of.at += DAY_S
    of.refund(charge, refund)
    return of


def multicapture_open_after_first() -> Payment:
    """700 of 1000 are captured, and more can be."""
    of = held(1000)
    of.at += DAY_S
    of.capture_part(of.state.charges[0], 700)
    return of


def partial_capture(authorised: int, captured: int, refund: int, unsubscribed: frozenset[str]) -> Payment:
    """A part of an authorisation is captured, and a part of that refunded."""
    of = held(authorised, unsubscribed)
    [charge] = of.state.charges
    of.at += DAY_S
    of.capture(charge, captured)
    of.at += DAY_S
    of.refund(charge, refund)
    return of


def refund_failed_beside_another() -> Payment:
    """700 of 1000 are captured; one refund stands, and the charge is reported in the second in which another failed."""
    of = partial_capture(1000, 700, 100, RECEIVES_ALL)
    [charge] = of.state.charges
    failing = of.refund(charge, 200)
    of.at += DAY_S
    of.change_refund(failing, "failed")
    of.settle(charge)
    return of


def last_capture_known_from_the_intent() -> Payment:
    """The charge was last reported when 700 were captured and 100 refunded; then 900 are."""
    of = held(1000, frozenset({"charge.captured", "charge.updated"}))
    [charge] = of.state.charges
    of.capture_part(charge, 700)
    of.refund(charge, 100)
    of.at += DAY_S
    of.capture(charge, 200)
    return of


def incremental_authorization() -> Payment:
    """10 are held, raised to 15, and 15 captured."""
    of = held(1000)
    of.raise_hold(of.state.charges[0], 500)
    of.capture(of.state.charges[0], 1500)
    return of


def auth_released_in_dashboard() -> Payment:
    """An authorisation ends without capture."""
    of = held(4000)
    of.cancel_intent()
    return of


def disputed(first: str, *later: str) -> Payment:
    """A dispute begins in a status and goes on to others."""
    of = paid(5000)
    of.at += DAY_S
    dispute = of.dispute(of.state.charges[0], 5000, first)
    for status in later:
        of.at += DAY_S
        of.change_dispute(dispute, status)
    return of


def ach_return_as_dispute() -> Payment:
    """A debit that succeeded comes back as a dispute that is lost at once."""
    of = debit(5000)
    of.at = START + 4 * DAY_S
    of.clear_debit(of.state.charges[0])
    of.at += 5 * DAY_S
    of.dispute(of.state.charges[0], 5000, "lost")
    return of


def dispute_without_intent() -> Payment:
    """A charge without a PaymentIntent is disputed, and the dispute won."""
    of = payment(6000)
    charge = of.succeed()
    of.change_dispute(of.dispute(charge, 6000), "won")
    return of


def early_fraud_warning_auto_refund() -> Payment:
    """Refunded as fraud; the dispute is prevented."""
    of = paid(8000)
    of.refund(of.state.charges[0], 8000)
    of.dispute(of.state.charges[0], 8000, "prevented")
    return of


def currency_changed_before_payment() -> Payment:
    """The region changes before the donor pays."""
    of = payment(900, "eur")
    of.create_intent()
    of.reprice(1000, "usd")
    of.succeed()
    return of


def processing_then_canceled() -> Payment:
    """The charity cancels a debit that is under way."""
    of = debit(2000)
    of.cancel_intent()
    return of


def sepa_source_pending_then_failed() -> Payment:
    """A debit without a PaymentIntent fails."""
    of = payment(2500, "eur")
    of.bounce_debit(of.start_debit(), keeps_capture=True)
    return of


def renewal_failed_then_recovered() -> Payment:
    """Two declined attempts, then one that succeeds."""
    of = payment(2000)
    of.create_intent()
    for _ in range(2):
        of.decline()
        of.at += 3 * DAY_S
    of.succeed()
    return of


def ticket_corrected_on_charge() -> Payment:
    """The charge's metadata are corrected; the PaymentIntent has none."""
    of = payment(1000)
    of.inputs.intent_metadata = {}
    of.create_intent()
    of.retag(of.succeed(), {"ticketId": "story-9"})
    return of


def payment_link_reference_only() -> Payment:
    """Only the session names the ticket, in `client_reference_id`."""
    of = Payment(endpoint(), Inputs(customer=ANN, reference="story-1"), amount=2300, currency="usd")
    session = of.open_session()
    of.create_intent()
    of.succeed()
    of.complete_session(session)
    return of


def refund_pending_then_canceled() -> Payment:
    """A refund waits for money and is canceled."""
    of = paid(5000)
    of.change_refund(of.refund(of.state.charges[0], 5000, "pending"), "canceled")
    return of


def destination_charge_both_sides() -> Payment:
    """The endpoint also receives the connected account's charge."""
    of = paid(10_000)
    of.report_connected_side(of.state.charges[0])
    return of


KNOWN_PAYMENTS: dict[str, tuple[Callable[[], Payment], dict[str, object]]] = {
    "multicapture_open_after_first": (
        multicapture_open_after_first,
        {"status": "PAID", "amount_minor": 700, "paid_at": START + DAY_S},
    ),
    "multicapture_refund_both": (
        lambda: multicapture(200, counts_release=False),
        {"status": "PAID", "amount_minor": 900, "refunded_minor": 200},
    ),
    "multicapture_refund_rows_only": (
        lambda: multicapture(200, counts_release=False, unsubscribed=frozenset({"charge.refunded"})),
        {"status": "PAID", "amount_minor": 900, "refunded_minor": 200},
    ),
    "multicapture all refunded": (
        lambda: multicapture(900, counts_release=True),
        {"status": "REFUNDED", "amount_minor": 900, "refunded_minor": 900},
    ),
    "a refund failed beside another": (
        refund_failed_beside_another,
        {"status": "PAID", "amount_minor": 700, "refunded_minor": 100},
    ),
    "the last capture is known from the PaymentIntent": (
        last_capture_known_from_the_intent,
        {"status": "PAID", "amount_minor": 900, "refunded_minor": 100},
    ),
    "incremental_authorization": (
        incremental_authorization,
        {"status": "PAID", "amount_minor": 1500, "refunded_minor": 0},
    ),
    "overcapture_with_tip": (
        lambda: partial_capture(1000, 1200, 1200, RECEIVES_ALL),
        {"status": "REFUNDED", "amount_minor": 1200, "refunded_minor": 1200},
    ),
    "partial_capture_then_full_refund": (
        lambda: partial_capture(10_000, 6000, 6000, RECEIVES_ALL),
        {"status": "REFUNDED", "amount_minor": 6000, "refunded_minor": 6000},
    ),
    "partial_capture_rows_only_real_refund": (
        lambda: partial_capture(1000, 700, 200, ONLY_REFUNDS),
        {"status": "PAID", "amount_minor": 700, "refunded_minor": 200},
    ),
    "partial_capture_charge_captured_not_heard": (
        lambda: partial_capture(1000, 700, 200, ONLY_REFUNDS | {"charge.captured"}),
        {"status": "PAID", "amount_minor": 700, "refunded_minor": 200},
    ),
    "auth_released_in_dashboard": (
        auth_released_in_dashboard,
        {"status": "EXPIRED", "amount_minor": 4000, "refunded_minor": 0, "paid_at": None, "donor": None},
    ),
    "ach_return_as_dispute": (
        ach_return_as_dispute,
        {"status": "DISPUTED", "amount_minor": 5000, "disputed_minor": 5000, "paid_at": START + 4 * DAY_S},
    ),
    "dispute_closed_by_api_lost": (
        lambda: disputed("needs_response", "lost"),
        {"status": "DISPUTED", "disputed_minor": 5000},
    ),
    "dispute_in_appeal": (
        lambda: disputed("needs_response", "under_review", "appeal_needs_response", "appeal_under_review"),
        {"status": "DISPUTED", "disputed_minor": 5000},
    ),
    "dispute_seen_first_in_appeal": (
        lambda: disputed("appeal_under_review"),
        {"status": "DISPUTED", "disputed_minor": 5000},
    ),
    "an unknown status": (
        lambda: disputed("needs_response", UNKNOWN_STATUS),
        {"status": "DISPUTED", "disputed_minor": 5000},
    ),
    "lost, then won": (lambda: disputed("lost", "won"), {"status": "PAID", "disputed_minor": 0}),
    "dispute_without_intent_withdrawn_with_fee": (
        dispute_without_intent,
        {"status": "PAID", "amount_minor": 6000, "disputed_minor": 0},
    ),
    "early_fraud_warning_auto_refund": (
        early_fraud_warning_auto_refund,
        {"status": "REFUNDED", "refunded_minor": 8000, "disputed_minor": 0},
    ),
    "currency_changed_before_payment": (
        currency_changed_before_payment,
        {"status": "PAID", "amount_minor": 1000, "currency": "USD"},
    ),
    "processing_then_canceled": (processing_then_canceled, {"status": "EXPIRED", "paid_at": None}),
    "sepa_source_pending_then_failed": (
        sepa_source_pending_then_failed,
        {"status": "FAILED", "amount_minor": 2500, "currency": "EUR", "paid_at": None},
    ),
    "renewal_failed_then_recovered": (
        renewal_failed_then_recovered,
        {"status": "PAID", "amount_minor": 2000, "paid_at": START + 6 * DAY_S},
    ),
    "ticket_corrected_on_charge": (ticket_corrected_on_charge, {"ticket": "story-9", "status": "PAID"}),
    "payment_link_reference_only": (
        payment_link_reference_only,
        {"ticket": "story-1", "status": "PAID", "amount_minor": 2300, "donor": "Smith", "session_id": "cs_test_a11"},
    ),
    "refund_pending_insufficient_funds": (
        refund_pending_then_canceled,
        {"status": "PAID", "amount_minor": 5000, "refunded_minor": 0, "refunded_at": None},
    ),
    "destination_charge_both_sides": (destination_charge_both_sides, {"status": "PAID", "amount_minor": 10_000}),
}

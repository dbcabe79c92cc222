"""Random payments: a random walk over the steps that are possible in the present state, in any API version.

For properties: after any events that Stripe can send, with any texts and within one second, the ledger must be right.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from daemon.simulator import monthly_payment
from daemon.simulator.api_versions import APIS, Api
from daemon.simulator.dispute_statuses import UNKNOWN_STATUS
from daemon.simulator.payment import Payment
from daemon.simulator.scenarios import DONORS, HOUR_S, MINUTE_S, Scenario
from daemon.simulator.state import Endpoint, Inputs, State
from daemon.simulator.stripe_invoices import Subscription
from daemon.simulator.stripe_objects import DAY_S, NO_DONOR, Charge, Dispute, Donor, Metadata, PaymentIntent, Refund
from daemon.simulator.stripe_sessions import Session
from tests.simulator.oracle import (
    FAMILIES,
    INVOICE_PAYMENTS,
    INVOICES,
    REFUNDS,
    SUBSCRIPTIONS,
    LargestAmounts,
    ObservedPayment,
    dispensable,
    expect,
    reported_at,
)

# In every list what is plain comes first: Hypothesis shrinks towards it.
OPENINGS = (
    *(*["checkout"] * 8, *["form"] * 8, *["terminal"] * 4, *["direct"] * 3, *["subscription"] * 5),
    *("invoice", "free", "setup"),
)
WAITS_S = (0, 0, 0, 1, 2, MINUTE_S, HOUR_S, 3 * DAY_S)
CURRENCIES = ("usd", "eur", "jpy", "kwd", "isk", "ugx")
SMALLEST = {"kwd": 10, "isk": 100, "ugx": 100}  # Stripe takes no finer amounts
AMOUNTS = (100, 5000, 7500, 123_400, 999_999_999_900)
LARGEST = 10**12
NOT_TICKETS = (
    "",
    "for my aunt's roof",
    "x" * 65,
    "donate.example.org",
    "203.0.113.9",
    "+12025550143",
    "491511234",
    "ann@example.org",
)

_CHECKOUT = frozenset(
    f"checkout.session.{name}" for name in ("completed", "async_payment_succeeded", "async_payment_failed", "expired")
)
_INTENT = frozenset(
    f"payment_intent.{name}" for name in ("succeeded", "payment_failed", "canceled", "processing", "created")
)
_CHARGE = frozenset(f"charge.{name}" for name in ("succeeded", "updated", "captured", "failed", "refunded"))
_DISPUTE = frozenset(
    f"charge.dispute.{name}" for name in ("created", "updated", "closed", "funds_withdrawn", "funds_reinstated")
)
# What endpoints may not be subscribed to, so that each source of a fact is needed at least once. An endpoint that
# receives invoices receives something of the payment itself: an invoice by itself contains nothing of the money.
UNSUBSCRIBED: dict[str, frozenset[str]] = {
    "all": frozenset(),
    "no sessions": _CHECKOUT,
    "no PaymentIntents": _INTENT,
    "no charges": _CHARGE,
    "no captures": frozenset({"charge.captured", "charge.updated"}),
    "no invoices": INVOICES,
    "no invoice payments": INVOICE_PAYMENTS,
    "no subscriptions": SUBSCRIPTIONS,
    "afterwards": _INTENT | _DISPUTE | INVOICES | {"charge.succeeded", "charge.captured"},
    "sessions": _INTENT | _CHARGE | _DISPUTE | REFUNDS | INVOICES | SUBSCRIPTIONS,
}

UNKNOWN_TICKET = "unknown-ticket"
ACCOUNT = "acct_1Connected"

ALL_DONORS = (
    *DONORS,
    Donor("Ann Blank", "Blank", None, "   ", None, None, None, None),
    Donor("   ", None, "BE", "BLANK@EXAMPLE.BE", None, None, None, None),
    Donor("Agent 007", "Agent", "GB", None, None, None, None, None),
    Donor("Q " + "y" * 80, "y" * 64, None, None, None, None, None, None),
    Donor("Dr. Ann O'Hara, PhD", "O'Hara", "IE", "Ann@Example.ie", None, None, None, None),
    Donor("Lopez, Maria", "Lopez", "MX", None, None, None, None, None),
    Donor("John Smith Jr. (Troy)", "Smith", "US", None, None, None, None, None),
    Donor("김민수", "김", "KR", "minsu@example.kr", None, None, None, None),
    Donor("(+)", None, None, None, None, None, None, None),
)


@dataclass(frozen=True)
class RandomScenario(Scenario):
    """A random walk that has ended.

    Attributes:
        largest: by the id of a donation, the largest amounts that it ever had.
        dispensable: the families of events without any one of which the ledger must show the same.
        steps: the names of the steps that were taken.
    """

    largest: Mapping[str, LargestAmounts]
    dispensable: frozenset[frozenset[str]]
    steps: tuple[str, ...]

    @classmethod
    def of_walk(cls, kind: str, walk: "RandomWalk") -> "RandomScenario":
        """The payments of a walk."""
        payments, steps = walk.payments, tuple(walk.steps)
        largest = {end.donation: payment.largest for payment in payments if (end := expect(payment.state))}
        families = frozenset(FAMILIES).intersection(*map(dispensable, payments))
        states = tuple(payment.state for payment in payments)
        return cls(kind, tuple(walk.endpoint.events), states, largest, families, steps)

    def without(self, family: frozenset[str]) -> "RandomScenario | None":
        """The same scenario for an endpoint that does not receive these types of events; None where the ledger could
        not know the same.

        One family at a time: another one is dispensable only as long as the rest is received.
        """
        if family not in self.dispensable:
            return None
        events = tuple(event for event in self.events if event["type"] not in family)
        return replace(self, events=events, dispensable=frozenset())


def random_scenario(
    rng: random.Random,
    tickets: Sequence[str],
    *,
    key: str,
    start: int,
    livemode: bool = False,
    donors: Sequence[Donor] = ALL_DONORS,
    longest: int = 24,
) -> RandomScenario:
    """One random walk, begun at `start` (Unix seconds).

    Args:
        rng: all that is random; Hypothesis' own makes a walk shrink.
        tickets: ids that the ledger knows; others are named as well.
        key: letters and digits that no other walk in the same database has; all ids are made from it.
        start: the second of the first step.
        livemode: the mode whose events make donations; a few walks are of the other mode, which makes none.
        donors: the possible donors.
        longest: the largest number of steps.
    """
    opening = rng.choice(OPENINGS)
    other_mode = rng.random() > 0.96
    walk = RandomWalk(rng, tickets, donors, key)
    walk.begin(opening, start, livemode != other_mode)
    for _ in range(rng.randint(1, longest)):
        walk.step()
    if other_mode:
        return replace(RandomScenario.of_walk("other mode", walk), states=())
    return RandomScenario.of_walk(opening, walk)


class RandomWalk:
    """The random choices, and the payments that they change: several only for a subscription."""

    endpoint: Endpoint
    payment: ObservedPayment  # the one that the present step is about

    def __init__(self, rng: random.Random, tickets: Sequence[str], donors: Sequence[Donor], key: str) -> None:
        self.rng, self.key = rng, key
        self.tickets = (*tickets, *tickets, *tickets, UNKNOWN_TICKET, *NOT_TICKETS)
        self.donors = donors
        self.ids = 0
        self.payments: list[ObservedPayment] = []
        self.steps: list[str] = []

    def begin(self, opening: str, at: int, livemode: bool) -> None:
        """The site's side of a payment."""
        rng = self.rng
        api, account = rng.choice(APIS[::-1]), rng.choice((None, ACCOUNT))
        self.endpoint = Endpoint(self.new_id, at, api, account, livemode, self.unsubscribed(opening, api))
        inputs = self.inputs(self.metadata())
        if opening == "invoice":
            self.bill(None, inputs)
            return
        amount = 0 if opening == "free" else rng.choice(AMOUNTS)
        self.payment = ObservedPayment(self.endpoint, inputs, amount=amount, currency=rng.choice(CURRENCIES))
        self.payments = [self.payment]
        if opening == "form":
            self.create_intent()
        elif opening == "terminal":
            self.payment.create_intent(manual=True)
            self.attempt().hold()
        elif opening != "direct":
            self.payment.open_session(opening if opening in {"setup", "subscription"} else "payment")

    def unsubscribed(self, opening: str, api: Api) -> frozenset[str]:
        """Mostly nothing. Where refunds are reported by their charge only, charges have to be received."""
        name = self.rng.choice((*["all"] * 12, *UNSUBSCRIBED))
        if name == "no charges" and (opening == "direct" or not api.sends_refunds):
            name = "all"
        self.steps.append(f"receives {name}")
        return UNSUBSCRIBED[name]

    def step(self) -> None:
        """Some time passes, and one of the things happens that can happen now."""
        self.payment = self.rng.choice(self.payments)
        possible = [(step, of) for step in STEPS if (of := step.candidates(self.payment.state))]
        if not possible:
            return
        self.endpoint.at += self.rng.choice(WAITS_S)
        step, candidates = self.rng.choices(possible, [step.weight for step, _ in possible])[0]
        self.steps.append(step.name)
        step.take(self, self.rng.choice(candidates))

    def new_id(self, prefix: str) -> str:
        """Unique by the key and a count; sessions and charges are also compared by id, so theirs are in no order."""
        self.ids += 1
        compared = prefix.startswith(("cs_", "ch_"))
        return f"{prefix}{self.key}_{self.rng.choice('mZa') if compared else ''}{self.ids}"

    def chance(self, of_ten: int) -> bool:
        """True in that many of ten cases."""
        return self.rng.randint(1, 10) > 10 - of_ten

    def donor(self) -> Donor:
        """A donor, or only a part of what there is to know."""
        donor = self.rng.choice(self.donors)
        parts = (
            donor,
            NO_DONOR,
            replace(NO_DONOR, name=donor.name, last_name=donor.last_name),
            replace(NO_DONOR, email=donor.email),
            replace(NO_DONOR, country=donor.country),
        )
        return self.rng.choice(parts)

    def ticket(self) -> str | None:
        """A known ticket, an unknown one, what can't be one, or none."""
        return self.rng.choice((None, *self.tickets))

    def metadata(self) -> Metadata:
        """With or without a ticket."""
        ticket = self.ticket()
        return {"campaign": "spring"} if ticket is None else {"campaign": "spring", "ticketId": ticket}

    def inputs(self, intent_metadata: Metadata) -> Inputs:
        """Any donor and any tickets."""
        return Inputs(
            customer=self.donor(),
            receipt_email=self.donor().email,
            session_metadata=self.metadata(),
            reference=self.ticket(),
            intent_metadata=intent_metadata,
            asks_consent=self.chance(5),
            shows_name=self.rng.choice((None, True, True, False)),
        )

    def smallest(self) -> int:
        """The finest amount of the payment's currency."""
        return SMALLEST.get(self.payment.currency, 1)

    def part(self, amount: int) -> int:
        """Any amount up to this one, as fine as the currency has it."""
        smallest = self.smallest()
        return smallest * self.rng.randint(1, amount // smallest) if self.chance(5) else amount

    def create_intent(self) -> None:
        """The donor chose how to pay."""
        method = self.rng.choice(("card", "card", "us_bank_account"))
        self.payment.create_intent(method, manual=method == "card" and self.chance(4))

    def bill(self, subscription: Subscription | None, inputs: Inputs) -> None:
        """One more payment, by invoice."""
        amount, currency = self.rng.choice(AMOUNTS), self.rng.choice(CURRENCIES)
        self.payment = ObservedPayment(self.endpoint, inputs, amount=amount, currency=currency)
        monthly_payment.bill(
            self.payment,
            subscription,
            line_metadata=self.line_metadata() if subscription else None,
            method=self.rng.choice(("card", "card", "us_bank_account")),
        )
        self.payments.append(self.payment)

    def line_metadata(self) -> Metadata | None:
        """Lines can differ from the subscription; only where `subscription_details` has precedence is that tried."""
        differs = self.endpoint.api.invoices == "details" and self.chance(3)
        return self.metadata() if differs else None

    def attempt(self) -> ObservedPayment:
        """The payment, with new billing details and metadata for its next charge; those of invoices rarely have any."""
        by_invoice = self.payment.state.invoice is not None
        self.payment.inputs.billing = self.donor()
        self.payment.inputs.charge_metadata = {} if by_invoice and self.chance(8) else self.metadata()
        return self.payment


# --- What each step needs: the objects that it can be taken with


def _open(state: State) -> list[Session]:
    return [session for session in state.sessions if session.status == "open"]


def _submittable(state: State) -> list[Session]:
    return [s for s in _open(state) if state.intent is None and s.mode == "payment" and s.amount > 0]


def _completable(state: State) -> list[Session]:
    started = state.intent is not None and state.intent.status in {"succeeded", "processing", "requires_capture"}
    started = started or state.subscription is not None
    return [session for session in _open(state) if started or session.amount == 0 or session.mode == "setup"]


def _expirable(state: State) -> list[Session]:
    idle = state.intent is None or state.intent.status in {"requires_payment_method", "canceled"}
    return _open(state) if (idle and state.subscription is None) or len(state.sessions) > 1 else []


def _subscribable(state: State) -> list[Session]:
    return [session for session in _open(state) if session.mode == "subscription" and state.subscription is None]


def _subscription(state: State) -> list[Subscription]:
    return [state.subscription] if state.subscription and state.subscription.status == "active" else []


def _repriceable(state: State) -> list[PaymentIntent]:
    """Only where nothing else has the amount: no session, no invoice, and no charge that took money."""
    fixed = state.sessions or state.invoice or state.is_paid
    return [intent for intent in _unpaid_intent(state) if not fixed]


def _reopenable(state: State) -> list[Session]:
    return state.sessions if state.intent is not None and len(state.sessions) == 1 else []


def _newer_versions(state: State) -> list[Api]:
    """An endpoint of a newer version replaces the present one; none whose refunds would not be reported any more."""
    present = state.endpoint.api
    newer = APIS[APIS.index(present) + 1 :] if present.has_amount_captured else ()
    return [api for api in newer if api.sends_refunds or not present.sends_refunds]


def _expecting(state: State) -> list[PaymentIntent]:
    return [state.intent] if state.intent and not state.charges else []


def _payable(state: State, method: str, *, manual: bool = False) -> list[Any]:
    """A PaymentIntent that waits for this method, or a direct charge that is still to be made."""
    intent = state.intent
    if intent is None:
        return [state] if not state.sessions and not state.charges else []
    fits = (intent.method, intent.manual) == (method, manual)
    return [intent] if fits and intent.status == "requires_payment_method" else []


def _unpaid_intent(state: State) -> list[PaymentIntent]:
    return [state.intent] if state.intent and state.intent.status == "requires_payment_method" else []


def _declinable(state: State) -> list[Any]:
    return _unpaid_intent(state) or _payable(state, "card")


def _testable(state: State) -> list[PaymentIntent]:
    return [intent for intent in _unpaid_intent(state) if intent.method == "card"]


def _pending(state: State) -> list[Charge]:
    return [charge for charge in state.charges if charge.status == "pending"]


def _held(state: State) -> list[Charge]:
    return [charge for charge in state.charges if charge.is_open]


def _releasable(state: State) -> list[Charge]:
    return [charge for charge in _held(state) if not charge.amount_captured]


def _extendable(state: State) -> list[Charge]:
    """Several captures and incremental authorisation need a PaymentIntent, and a version that reports the amounts."""
    return _held(state) if state.intent and state.endpoint.api.has_amount_captured else []


def _raisable(state: State) -> list[Charge]:
    return [charge for charge in _extendable(state) if charge.amount < LARGEST]


def _divisible(state: State) -> list[Charge]:
    """Those of which something is left after one more capture."""
    return [charge for charge in _extendable(state) if charge.amount - charge.amount_captured >= 200]


def _paid(state: State) -> list[Charge]:
    return [charge for charge in state.charges if charge.holds_money]


def _returnable(state: State) -> list[Charge]:
    """Bank debits whose money nothing else has moved."""
    debits = [charge for charge in _paid(state) if charge.method == "us_bank_account"]
    return [charge for charge in debits if not charge.refunds and not charge.disputes]


def _editable(state: State) -> list[Charge]:
    """Those whose details can be changed so that the endpoint receives it."""
    changes = state.endpoint.receives("charge.updated")
    return [charge for charge in state.charges if changes and charge.reports]


def _refundable(state: State) -> list[Charge]:
    """Stripe refunds no charge whose money a dispute holds."""
    free = [charge for charge in _paid(state) if not any(dispute.takes_money for dispute in charge.disputes)]
    return [charge for charge in free if charge.refundable > 0 and len(charge.refunds) < 5]


def _refunds(*statuses: str) -> Callable[[State], list[Refund]]:
    return lambda state: [refund for refund in state.refunds if refund.status in statuses]


def _disputable(state: State) -> list[Charge]:
    return [charge for charge in _paid(state) if len(charge.disputes) < 3]


def _movable(state: State) -> list[Dispute]:
    return [dispute for dispute in state.disputes if dispute.status in NEXT_STAGES]


NEXT_STAGES = {
    "warning_needs_response": ("warning_under_review", "warning_closed", "needs_response"),
    "warning_under_review": ("warning_closed", "needs_response", "warning_needs_response"),
    "warning_closed": ("needs_response",),
    "needs_response": ("under_review", "won", "lost", "charge_refunded", "prevented", UNKNOWN_STATUS),
    "under_review": ("won", "lost", "needs_response", "appeal_needs_response"),
    "appeal_needs_response": ("appeal_under_review", "lost", UNKNOWN_STATUS),
    "appeal_under_review": ("won", "lost", "appeal_needs_response"),
    UNKNOWN_STATUS: ("won", "lost", "under_review"),
    "lost": ("won", "under_review", "appeal_needs_response"),
    "won": ("lost",),
}
FIRST_STAGES = (
    *("needs_response", "needs_response", "warning_needs_response", "lost", "under_review", "prevented"),
    *("appeal_needs_response", "appeal_under_review", UNKNOWN_STATUS),
)


# --- What each step does


def _refund(walk: RandomWalk, charge: Charge) -> None:
    status = walk.rng.choice(("succeeded", "succeeded", "pending", "requires_action"))
    if not walk.endpoint.receives("charge.refunded") and reported_at(charge) == walk.endpoint.at:
        walk.endpoint.at += 1  # or nothing would say whether that second's snapshot contains the refund
    walk.payment.refund(charge, walk.part(charge.refundable), status)


def _dispute(walk: RandomWalk, charge: Charge) -> None:
    status = walk.rng.choice(FIRST_STAGES)
    if walk.chance(2):
        walk.payment.dispute(charge, walk.rng.choice(AMOUNTS), status, walk.rng.choice(CURRENCIES))
    else:
        walk.payment.dispute(charge, walk.part(charge.amount), status)


def _capture(walk: RandomWalk, charge: Charge) -> None:
    """The rest of an authorisation, a part of it, or more than it."""
    left = charge.amount - charge.amount_captured
    may_exceed = bool(_extendable(walk.payment.state)) and walk.chance(2)
    amount = left + walk.part(charge.amount) if may_exceed else walk.part(left)
    # A known limit of the rules: after a release that Stripe does not count as refunded, too little is shown as
    # refunded if a refund came before this capture, or if this capture is not received. Such releases are counted here.
    is_seen = walk.endpoint.receives("charge.captured") or not walk.endpoint.receives("charge.refunded")
    is_limit = bool(charge.refunds) or not is_seen or not walk.endpoint.api.has_amount_captured
    counts_release = is_limit or walk.chance(6)
    walk.payment.capture(charge, amount, reported_twice=walk.chance(5), counts_release=counts_release)


def _capture_part(walk: RandomWalk, charge: Charge) -> None:
    left = charge.amount - charge.amount_captured - walk.smallest()
    walk.payment.capture_part(charge, walk.part(left))


def _test_cards(walk: RandomWalk, _intent: PaymentIntent) -> None:
    """Many attempts on one PaymentIntent, each with another card."""
    for _ in range(walk.rng.randint(5, 30)):
        walk.attempt().decline()


def _reprice(walk: RandomWalk, _intent: PaymentIntent) -> None:
    walk.payment.reprice(walk.rng.choice(AMOUNTS), walk.rng.choice(CURRENCIES))


def _subscribe(walk: RandomWalk, session: Session) -> None:
    subscription = monthly_payment.subscribe(walk.endpoint, session, walk.metadata())
    walk.payment.state.subscription = subscription
    _bill_month(walk, subscription)


def _bill_month(walk: RandomWalk, subscription: Subscription) -> None:
    """An invoice's PaymentIntent rarely names a ticket of its own."""
    walk.bill(subscription, walk.inputs(walk.metadata() if walk.chance(1) else {}))


def _retag_subscription(walk: RandomWalk, subscription: Subscription) -> None:
    monthly_payment.retag(walk.endpoint, subscription, walk.metadata())


def _fail_debit(step: Callable[..., None]) -> "Callable[[RandomWalk, Charge], None]":
    return lambda walk, charge: step(walk.payment, charge, keeps_capture=walk.chance(5))


def _release(walk: RandomWalk, charge: Charge) -> None:
    if walk.payment.state.intent is None:
        walk.payment.release(charge)
    else:
        walk.payment.cancel_intent()


def _mention(walk: RandomWalk, session: Session) -> None:
    walk.payment.mention("checkout.session.created", session)


def _change_version(walk: RandomWalk, api: Api) -> None:
    walk.endpoint.api = api


def _refund_to(status: str) -> "Callable[[RandomWalk, Refund], None]":
    return lambda walk, refund: walk.payment.change_refund(refund, status)


def _fail_refund(walk: RandomWalk, refund: Refund) -> None:
    """Sometimes the charge is reported right afterwards, within the same second."""
    walk.payment.change_refund(refund, "failed")
    if refund.charge is not None and walk.chance(3):
        walk.payment.settle(refund.charge)


@dataclass(frozen=True)
class _Step:
    """One thing that can happen: with which objects, what it does, and how often it does."""

    name: str
    candidates: Callable[[State], Sequence[Any]]
    take: Callable[[RandomWalk, Any], object]
    weight: int = 2


STEPS = (
    _Step("session completes", _completable, lambda walk, session: walk.payment.complete_session(session), 6),
    _Step("session is submitted", _submittable, lambda walk, _: walk.create_intent(), 6),
    _Step("session expires", _expirable, lambda walk, session: walk.payment.expire_session(session), 1),
    _Step("second session", _reopenable, lambda walk, _: walk.payment.open_session(), 1),
    _Step("not handled", lambda state: state.sessions, _mention, 1),
    _Step("newer version", _newer_versions, _change_version, 1),
    _Step("cash balance", _expecting, lambda walk, _: walk.payment.refund_cash_balance(100), 1),
    _Step("connected side", _paid, lambda walk, charge: walk.payment.report_connected_side(charge), 1),
    _Step("subscribe", _subscribable, _subscribe, 6),
    _Step("month", _subscription, _bill_month, 6),
    _Step("subscription's metadata", _subscription, _retag_subscription, 2),
    _Step("subscription ends", _subscription, lambda walk, of: monthly_payment.end(walk.endpoint, of), 1),
    _Step("pay", lambda state: _payable(state, "card"), lambda walk, _: walk.attempt().succeed(), 6),
    _Step("hold", lambda state: _payable(state, "card", manual=True), lambda walk, _: walk.attempt().hold(), 6),
    _Step("debit", lambda state: _payable(state, "us_bank_account"), lambda walk, _: walk.attempt().start_debit(), 6),
    _Step("decline", _declinable, lambda walk, _: walk.attempt().decline()),
    _Step("cards are tested", _testable, _test_cards, 1),
    _Step("reprice", _repriceable, _reprice),
    _Step("refuse", _unpaid_intent, lambda walk, _: walk.payment.refuse(), 1),
    _Step("cancel", _unpaid_intent, lambda walk, _: walk.payment.cancel_intent(), 1),
    _Step("debit clears", _pending, lambda walk, charge: walk.payment.clear_debit(charge), 4),
    _Step("debit bounces", _pending, _fail_debit(Payment.bounce_debit)),
    _Step("debit is returned", _returnable, _fail_debit(Payment.return_debit), 4),
    _Step("capture", _held, _capture, 4),
    _Step("capture of a part", _divisible, _capture_part, 3),
    _Step("hold is raised", _raisable, lambda walk, c: walk.payment.raise_hold(c, walk.part(c.amount)), 1),
    _Step("release", _releasable, _release, 1),
    _Step("settle", _paid, lambda walk, charge: walk.payment.settle(charge), 4),
    _Step("retag", _editable, lambda walk, charge: walk.payment.retag(charge, walk.metadata()), 1),
    _Step("rename", _editable, lambda walk, charge: walk.payment.rename(charge, walk.donor()), 1),
    _Step("refund", _refundable, _refund, 6),
    _Step("refund succeeds", _refunds("pending", "requires_action"), _refund_to("succeeded")),
    _Step("refund waits", _refunds("pending"), _refund_to("requires_action"), 1),
    _Step("refund fails", _refunds("pending", "requires_action", "succeeded"), _fail_refund),
    _Step("refund is canceled", _refunds("pending", "requires_action"), _refund_to("canceled")),
    _Step("dispute", _disputable, _dispute, 3),
    _Step(
        "dispute moves",
        _movable,
        lambda walk, dispute: walk.payment.change_dispute(dispute, walk.rng.choice(NEXT_STAGES[dispute.status])),
        8,
    ),
    _Step(
        "dispute's amount",
        lambda state: state.disputes,
        lambda walk, dispute: walk.payment.amend_dispute(dispute, walk.part(dispute.charge.amount)),
        1,
    ),
)

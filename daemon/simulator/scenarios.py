"""Typical payments, drawn from a fixed distribution of kinds: for the demo, the benchmark and the fault harness.

Every scenario is of today's API version, and the same seed gives the same scenarios.
"""

import random
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from daemon.simulator import monthly_payment
from daemon.simulator.payment import Payment
from daemon.simulator.state import Endpoint, Inputs, State
from daemon.simulator.stripe_objects import DAY_S, NO_DONOR, Charge, Dispute, Donor, Json
from daemon.simulator.stripe_sessions import Session

MINUTE_S, HOUR_S = 60, 3600
ALPHABET = string.ascii_letters + string.digits

DONORS = (
    Donor("Alice Smith", "Smith", "US", "alice.smith@example.com", "+12025550143", "12 Elm Street", "Albany", "12207"),
    Donor("Jean Tremblay", "Tremblay", "CA", "Jean.T@example.org", "+15145550178", "9 rue Hutt", "Laval", "H7A 0A1"),
    Donor("José María García López", "López", "MX", "jm@example.mx", "+525555550101", "Av. Sol 4", "Puebla", "72000"),
    Donor("  Zoë   O'Neill ", "O'Neill", "IE", " Zoe@Example.ie ", "+35315550199", "3 Quay Road", "Cork", "T12 X0Y"),
    Donor("Wang Xiaoming", "Xiaoming", "SG", "xm.wang@example.sg", "+6565550112", "77 Orchard Rd", "Singapore", "238"),
    Donor("山田 太郎", "山田", "JP", "taro@example.jp", "+81355500155", "1-2-3 Ginza", "Tokyo", "104-0061"),
    Donor("Jane", "Jane", "GB", "jane@example.co.uk", "+442075550160", "221 Baker Street", "London", "NW1 6XE"),
    Donor("Anna-Lena Müller-Lüdenscheidt", "Müller-Lüdenscheidt", "DE", "al@example.de", None, "Ring 5", "Ulm", None),
    Donor("dora.private@example.net", None, "US", "dora.private@example.net", None, None, None, "94103"),
    Donor(None, None, "FR", "sans.nom@example.fr", None, None, None, "75001"),
    NO_DONOR,
)


@dataclass(frozen=True)
class Scenario:
    """One payment, or the months of one subscription: its events in Stripe's order, and what Stripe then holds."""

    kind: str
    events: tuple[Json, ...]
    states: tuple[State, ...] = field(compare=False, repr=False)  # of each payment

    @classmethod
    def of(cls, kind: str, payments: Sequence[Payment]) -> "Scenario":
        """The payments of one endpoint so far."""
        return cls(kind, tuple(payments[0].endpoint.events), tuple(payment.state for payment in payments))


# --- Kinds


class _Builder:
    """Makes one scenario: a payment by today's API, with the random choices of its kind."""

    def __init__(
        self,
        rng: random.Random,
        donor: Donor,
        ticket: str | None,
        *,
        at: int,
        amount: int,
        currency: str,
        in_metadata: bool = True,
        billing: bool = True,
        livemode: bool = False,
        id_end: str = "",
    ) -> None:
        self.rng, self.id_end = rng, id_end
        self.in_metadata = in_metadata
        self.metadata = {"ticketId": ticket} if ticket is not None and in_metadata else {}
        self.inputs = Inputs(
            customer=donor,
            billing=donor if billing else NO_DONOR,  # wallets often leave the charge's billing details null
            receipt_email=donor.email if rng.random() < 0.5 else None,
            session_metadata=self.metadata,
            reference=ticket,
            intent_metadata=self.metadata,
            charge_metadata=self.metadata,
        )
        self.endpoint = Endpoint(self._new_id, at, livemode=livemode)
        self.payment = Payment(self.endpoint, self.inputs, amount=amount, currency=currency)
        self.payments = [self.payment]

    def _new_id(self, prefix: str) -> str:
        length = 56 if prefix.startswith("cs_") else 23
        return prefix + "".join(self.rng.choices(ALPHABET, k=length - len(self.id_end))) + self.id_end

    def wait(self, at_least_s: int, at_most_s: int) -> None:
        """Moves the clock."""
        self.endpoint.at += self.rng.randint(at_least_s, at_most_s)


def _by_checkout(builder: _Builder) -> Charge:
    """Checkout, paid by card: the beginning of most scenarios."""
    session = builder.payment.open_session()
    builder.wait(20, 15 * MINUTE_S)
    builder.payment.create_intent()
    builder.wait(0, 3)
    charge = builder.payment.succeed()
    builder.wait(0, 1)
    builder.payment.complete_session(session)
    builder.wait(1, 5)
    builder.payment.settle(charge)
    return charge


def _paid(builder: _Builder) -> None:
    _by_checkout(builder)


def _debit(builder: _Builder) -> Charge:
    """Checkout with a bank debit, up to the days of waiting."""
    session = builder.payment.open_session()
    builder.wait(60, 15 * MINUTE_S)
    builder.payment.create_intent("us_bank_account")
    charge = builder.payment.start_debit()
    builder.payment.complete_session(session)
    builder.wait(2 * DAY_S, 4 * DAY_S)
    return charge


def _paid_late(builder: _Builder) -> None:
    builder.payment.clear_debit(_debit(builder))


def _debit_failed(builder: _Builder) -> None:
    builder.payment.bounce_debit(_debit(builder))


def _debit_returned(builder: _Builder) -> None:
    """The bank calls a debit back that had succeeded days ago."""
    charge = _debit(builder)
    builder.payment.clear_debit(charge)
    builder.wait(2 * DAY_S, 20 * DAY_S)
    builder.payment.return_debit(charge)


def _monthly(builder: _Builder) -> None:
    """Three months; the second is declined once and charged again. The ticket is named at the beginning only."""
    session = builder.payment.open_session("subscription")
    builder.wait(20, 15 * MINUTE_S)
    subscription = monthly_payment.subscribe(builder.endpoint, session, builder.metadata)
    for month in range(3):
        builder.endpoint.at = subscription.created + month * 30 * DAY_S
        inputs = replace(builder.inputs, intent_metadata={}, charge_metadata={})
        amount, currency = builder.payment.amount, builder.payment.currency
        payment = Payment(builder.endpoint, inputs, amount=amount, currency=currency)
        monthly_payment.bill(payment, subscription)
        builder.payments.append(payment)
        if month == 1:
            payment.decline()
            builder.wait(2 * DAY_S, 3 * DAY_S)
        charge = payment.succeed()
        if month == 0:
            builder.payment.complete_session(session)
        builder.wait(1, 5)
        payment.settle(charge)


def _refunded(builder: _Builder) -> None:
    charge = _by_checkout(builder)
    builder.wait(HOUR_S, 3 * DAY_S)
    refund = builder.payment.refund(charge, charge.amount)
    builder.wait(MINUTE_S, DAY_S)
    builder.payment.change_refund(refund, "succeeded")


def _partially_refunded(builder: _Builder) -> None:
    """One to three refunds, the first perhaps pending; never the whole amount."""
    charge = _by_checkout(builder)
    for _ in range(builder.rng.randint(1, 3)):
        builder.wait(HOUR_S, DAY_S)
        pending = builder.rng.random() < 0.3
        refund = builder.payment.refund(charge, charge.amount // 100 * 30, "pending" if pending else "succeeded")
        if builder.rng.random() < 0.5:
            builder.wait(MINUTE_S, HOUR_S)
            builder.payment.change_refund(refund, "succeeded")


def _refund_failed(builder: _Builder) -> None:
    charge = _by_checkout(builder)
    builder.wait(HOUR_S, DAY_S)
    refund = builder.payment.refund(charge, charge.amount)
    builder.wait(HOUR_S, 2 * DAY_S)
    builder.payment.change_refund(refund, "failed")


def _dispute_open(builder: _Builder) -> Dispute:
    charge = _by_checkout(builder)
    builder.wait(HOUR_S, 3 * DAY_S)
    return builder.payment.dispute(charge, charge.amount)


def _dispute_decided(builder: _Builder, status: str) -> None:
    dispute = _dispute_open(builder)
    builder.wait(HOUR_S, DAY_S)
    builder.payment.change_dispute(dispute, "under_review")
    builder.wait(HOUR_S, 2 * DAY_S)
    builder.payment.change_dispute(dispute, status)


def _dispute_won(builder: _Builder) -> None:
    _dispute_decided(builder, "won")


def _dispute_lost(builder: _Builder) -> None:
    _dispute_decided(builder, "lost")


def _inquiry(builder: _Builder) -> None:
    """The bank asks; the answer satisfies it, or it disputes the payment."""
    charge = _by_checkout(builder)
    builder.wait(HOUR_S, 3 * DAY_S)
    inquiry = builder.payment.dispute(charge, charge.amount, "warning_needs_response")
    builder.wait(HOUR_S, DAY_S)
    builder.payment.change_dispute(inquiry, builder.rng.choice(["warning_closed", "needs_response"]))


def _expired(builder: _Builder) -> None:
    session = builder.payment.open_session()
    builder.wait(DAY_S, DAY_S + HOUR_S)
    builder.payment.expire_session(session)


def _failed_then_paid(builder: _Builder) -> None:
    """One or two declined attempts, then success; in Checkout, or in a site's own form."""
    session: Session | None = None
    if builder.rng.random() < 0.5 or not builder.in_metadata:
        session = builder.payment.open_session()
        builder.wait(20, 15 * MINUTE_S)
    builder.payment.create_intent()
    for _ in range(builder.rng.randint(1, 2)):
        builder.wait(1, 3)
        builder.payment.decline()
    builder.wait(5, 10 * MINUTE_S)
    charge = builder.payment.succeed()
    if session is not None:
        builder.payment.complete_session(session)
    builder.wait(1, 5)
    builder.payment.settle(charge)


@dataclass(frozen=True)
class _Kind:
    """A way a payment can go: its steps, its share of twenty scenarios, and the longest time that it takes."""

    name: str
    steps: Callable[[_Builder], object]
    share: int
    longest_days: int = 1
    has_ticket: bool = True


KINDS = (
    _Kind("paid", _paid, 4),
    _Kind("paid_late", _paid_late, 1, longest_days=5),
    _Kind("refunded", _refunded, 2, longest_days=5),
    _Kind("partially_refunded", _partially_refunded, 2, longest_days=5),
    _Kind("dispute_won", _dispute_won, 1, longest_days=7),
    _Kind("dispute_lost", _dispute_lost, 1, longest_days=7),
    _Kind("dispute_open", _dispute_open, 1, longest_days=4),
    _Kind("inquiry", _inquiry, 1, longest_days=5),
    _Kind("expired", _expired, 1, longest_days=2),
    _Kind("failed_then_paid", _failed_then_paid, 1),
    _Kind("no_ticket", _paid, 1, has_ticket=False),
    _Kind("refund_failed", _refund_failed, 1, longest_days=4),
    _Kind("debit_failed", _debit_failed, 1, longest_days=5),
    _Kind("debit_returned", _debit_returned, 1, longest_days=25),
    _Kind("monthly", _monthly, 1, longest_days=62),
)
DISTRIBUTION = tuple(kind for kind in KINDS for _ in range(kind.share))

# How often each currency is drawn, and its usual amounts in minor units (0, 2 and 3 decimals: JPY, most, KWD).
CURRENCIES: Mapping[str, tuple[int, tuple[int, ...]]] = {
    "usd": (80, (500, 1000, 2500, 5000, 7512, 10_000, 12_500, 100_000)),
    "eur": (9, (1000, 2000, 5000, 9999)),
    "cad": (5, (1500, 5000)),
    "jpy": (4, (500, 1000, 30_000)),
    "kwd": (2, (5000, 12_340)),
}


# --- Scenarios


def generate(
    seed: int, payments: int, tickets: Sequence[str], *, now: int, livemode: bool = False, id_end: str = ""
) -> list[Scenario]:
    """Scenarios, each begun in the 30 days before `now` (Unix seconds; subscriptions in 62) and ended by then.

    The same arguments give the same scenarios, and a smaller number of payments gives the first of a larger number.
    Twenty payments that start at a multiple of twenty contain every kind. All ids end with `id_end`. Raises ValueError
    if `tickets` is empty.
    """
    if not tickets:
        raise ValueError("there is no ticket to donate to")
    return [_scenario(seed, index, tickets, now, livemode=livemode, id_end=id_end) for index in range(payments)]


def _scenario(seed: int, index: int, tickets: Sequence[str], now: int, *, livemode: bool, id_end: str) -> Scenario:
    round_, place = divmod(index, len(DISTRIBUTION))
    kind = _seeded(f"{seed} deck {round_}").sample(DISTRIBUTION, len(DISTRIBUTION))[place]
    rng = _seeded(f"{seed} life {index}")
    currency = rng.choices(list(CURRENCIES), [weight for weight, _ in CURRENCIES.values()])[0]
    builder = _Builder(
        rng,
        rng.choice(DONORS),
        rng.choice(tickets) if kind.has_ticket else None,
        at=now - rng.randint(kind.longest_days * DAY_S, max(30, kind.longest_days) * DAY_S),
        amount=rng.choice(CURRENCIES[currency][1]),
        currency=currency,
        in_metadata=rng.random() < 0.8,
        billing=rng.random() < 0.8,
        livemode=livemode,
        id_end=id_end,
    )
    kind.steps(builder)
    return Scenario.of(kind.name, builder.payments)


def card_testing(attempts: int, ticket: str, *, at: int, seed: int = 1, paid: bool = True) -> Scenario:
    """This number of declined attempts on one PaymentIntent, each with another person's card; then one may succeed."""
    builder = _Builder(_seeded(f"{seed} card testing"), NO_DONOR, ticket, at=at, amount=100, currency="usd")
    builder.payment.create_intent()
    for _ in range(attempts):
        builder.inputs.billing = builder.rng.choice(DONORS)
        builder.payment.decline()
        builder.wait(0, 2)
    if paid:
        builder.payment.succeed()
    return Scenario.of("card_testing", builder.payments)


def shuffled(scenarios: Sequence[Scenario], seed: int, duplicates: float = 0.1) -> list[Json]:
    """All events of the scenarios out of order, with that share of them sent again."""
    rng = _seeded(f"{seed} order")
    events = [event for scenario in scenarios for event in scenario.events]
    events += rng.choices(events, k=round(len(events) * duplicates)) if events else []
    rng.shuffle(events)
    return events


def seed_example(ticket: str = "ticket_abc123") -> list[Scenario]:
    """The four donations of the original design's ledger view; the first two are those of its JSON example."""
    smith = Donor("John Smith", "Smith", "US", "john.smith@example.com", "+12025550101", "1 Main St", "Troy", "12180")
    johnson = Donor("Eve Johnson", "Johnson", "CA", "eve.j@example.ca", None, "8 King St", "Toronto", "M5H 1A1")
    garcia = Donor("Maria Garcia", "Garcia", "MX", "maria@example.mx", None, "Calle 3", "Merida", "97000")
    return [
        _example(ticket, smith, 5000, "2024-12-16T10:30:00", "2024-12-16T10:31:15"),
        _example(ticket, johnson, 10_000, "2024-12-15T14:20:00", "2024-12-15T14:21:30", refunded="2024-12-16T09:00:00"),
        _example(ticket, NO_DONOR, 7500, "2024-12-14T08:14:00", "2024-12-14T08:15:00"),
        _example(ticket, garcia, 12_500, "2024-12-13T16:44:00", "2024-12-13T16:45:00"),
    ]


def _example(
    ticket: str, donor: Donor, amount: int, opened: str, paid: str, *, refunded: str | None = None
) -> Scenario:
    builder = _Builder(_seeded(f"example {opened}"), donor, ticket, at=_second(opened), amount=amount, currency="usd")
    payment = builder.payment
    session = payment.open_session()
    payment.at = _second(paid)
    payment.create_intent()
    charge = payment.succeed()
    payment.complete_session(session)
    if refunded is not None:
        payment.at = _second(refunded)
        payment.refund(charge, amount)
    return Scenario.of("refunded" if refunded else "paid", builder.payments)


def _second(utc: str) -> int:
    return int(datetime.fromisoformat(utc).replace(tzinfo=UTC).timestamp())


def _seeded(seed: str) -> random.Random:
    return random.Random(seed)  # noqa: S311 - repeatable test data, nothing secret

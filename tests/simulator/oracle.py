"""What the ledger must show of a payment, independently of the ledger's own rules.

Two sources: Stripe's state, which knows what really happened to the money, and for each object the reports of itself
that the endpoint received, because the ledger can't know more than that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from daemon.simulator.payment import Payment
from daemon.simulator.scenarios import Scenario
from daemon.simulator.state import Endpoint, Inputs, Reported, State
from daemon.simulator.stripe_objects import NO_DONOR, Charge, Donor, Json, Refund, Report, ticket_of
from daemon.simulator.stripe_sessions import Session
from tests.simulator.received_objects import ReceivedCharge, ReceivedObject, first, value_at

# Families of events that an endpoint may not be subscribed to.
CHARGE_REFUNDED = frozenset({"charge.refunded"})
CHARGE_UPDATED = frozenset({"charge.updated"})
REFUNDS = frozenset({"refund.created", "refund.updated", "refund.failed", "charge.refund.updated"})
INVOICE_PAID = frozenset({"invoice.paid"})
INVOICE_PAYMENTS = frozenset({"invoice_payment.paid"})
INVOICES = frozenset({"invoice.paid", "invoice.payment_succeeded", "invoice_payment.paid"})
SUBSCRIPTIONS = frozenset(f"customer.subscription.{name}" for name in ("created", "updated", "deleted"))
FAMILIES = (CHARGE_REFUNDED, CHARGE_UPDATED, REFUNDS, INVOICE_PAID, INVOICE_PAYMENTS, INVOICES, SUBSCRIPTIONS)


@dataclass(frozen=True)
class Expected:
    """What the ledger must show of one donation. Amounts in minor units, times in Unix seconds, None if unknown."""

    donation: str
    ticket: str | None
    amount_minor: int | None
    currency: str | None  # in capitals, as the ledger shows it
    refunded_minor: int
    disputed_minor: int
    status: str
    donor: str | None  # the last name
    country: str | None
    email: str | None  # trimmed and in lower case, as it is hashed
    created_at: int
    paid_at: int | None
    refunded_at: int | None
    session_id: str | None
    account: str | None
    consent: bool = False


def expect(state: State, without: frozenset[str] = frozenset()) -> Expected | None:
    """What must be shown once all events are in; None where they make no donation.

    `without` names types of events that are left out.
    """
    received = _Received(state, without)
    if not received.owners:
        return None
    amount, currency = received.amount()
    paid_at = received.paid_at()
    names, countries = received.donors(), received.donors(with_invoice=False)
    return Expected(
        donation=state.intent.id if state.intent else received.owners[0].id,
        ticket=received.ticket(),
        amount_minor=amount,
        currency=currency,
        refunded_minor=received.refunded(),
        disputed_minor=received.disputed(),
        status=received.status(),
        donor=first(donor.last_name for donor in names) if paid_at is not None else None,
        country=first(donor.country for donor in countries) if paid_at is not None else None,
        email=received.email(),
        created_at=received.created_at(),
        paid_at=paid_at,
        refunded_at=received.refunded_at(),
        session_id=received.session.id if received.session else None,
        account=state.endpoint.account,
        consent=received.consent(),
    )


def expected_donations(scenario: Scenario) -> tuple[Expected, ...]:
    """One element for each donation of a scenario, and none where nothing becomes one."""
    return tuple(filter(None, map(expect, scenario.states)))


def only_donation(scenario: Scenario) -> Expected:
    """The donation of a scenario that makes exactly one. Raises ValueError for any other number."""
    [donation] = expected_donations(scenario)
    return donation


class ObservedPayment(Payment):
    """A payment that notes, while it goes on, what the oracle cannot see in Stripe's state at the end.

    Attributes:
        largest: the largest amounts that the donation ever had.
        ambiguous_refunds: ids of refunds whose second has an earlier snapshot of the charge, in which the released part
            looks like the refund.
    """

    def __init__(self, endpoint: Endpoint, inputs: Inputs, *, amount: int, currency: str) -> None:
        super().__init__(endpoint, inputs, amount=amount, currency=currency)
        self.largest = LargestAmounts()
        self.ambiguous_refunds: set[str] = set()

    def report(self, event_type: str, thing: Reported, previous: Json | None = None, donor: Donor = NO_DONOR) -> None:
        """Sends the event, and notes the amounts after it."""
        super().report(event_type, thing, previous, donor)
        if self.endpoint.receives(event_type) and self.state.is_paid:
            self.largest.include(self.state)

    def refund(self, charge: Charge, amount: int, status: str = "succeeded") -> Refund:
        """Refunds, and notes whether a snapshot of this second can be confused with the refund."""
        before = reported_at(charge)
        refund = super().refund(charge, amount, status)
        if charge.released and before == refund.created:
            self.ambiguous_refunds.add(refund.id)
        return refund


def reported_at(charge: Charge) -> int | None:
    """When an event last carried a charge."""
    return charge.reports[-1].at if charge.reports else None


def dispensable(payment: ObservedPayment) -> frozenset[frozenset[str]]:
    """The families of events without any one of which the ledger must still show the same.

    None if others are left out already: each family is dispensable as long as the rest is received.
    """
    state = payment.state
    if state.endpoint.unsubscribed:
        return frozenset()
    end = expect(state)
    sent = {event["type"] for event in state.endpoint.events}
    return frozenset(
        family
        for family in FAMILIES
        if not family & sent or (_refunds_known(payment, family) and expect(state, family) == end)
    )


def _refunds_known(payment: ObservedPayment, without: frozenset[str]) -> bool:
    """Whether what really went back can be known without these events."""
    state, charges = payment.state, payment.state.charges
    if without == CHARGE_REFUNDED:
        # Every refund was reported by itself, and no snapshot looks as if it contained one that it does not.
        never_released = state.endpoint.api.has_amount_captured or not any(charge.released for charge in charges)
        return never_released and all(
            refund.reports and refund.id not in payment.ambiguous_refunds for refund in state.refunds
        )
    if without == REFUNDS:  # no refund was made or failed since the charge was last reported
        return all(_newest_sum(charge) in (None, charge.amount_refunded) for charge in charges)
    return True


def _newest_sum(charge: Charge) -> int | None:
    """The refunded sum of the newest snapshot; among those of one second the largest."""
    sums = [report.shown["amount_refunded"] for report in charge.reports if report.at == reported_at(charge)]
    return max(sums, default=None)


class _Received:
    """What is known of a payment. Sources are asked in the order of precedence."""

    def __init__(self, state: State, without: frozenset[str]) -> None:
        self.state, self.without = state, without
        self.has_amount_captured = state.endpoint.api.has_amount_captured
        intent = state.intent
        self.intent = self._received(intent.id, intent.reports) if intent else None
        self.session = self._first_session()
        charges = (ReceivedCharge(charge, without) for charge in state.charges)
        self.charges = sorted((c for c in charges if c.reports), key=lambda charge: charge.rank, reverse=True)
        self.invoice, self.subscription, self.subscription_session = self._invoice()
        self.refunds = [refund for charge in self.charges for refund in charge.of.refunds]
        known = {refund.id for refund in self.refunds}
        others = (refund for refund in state.refunds if refund.id not in known)
        self.refunds += [refund for refund in others if self._received(refund.id, refund.reports)]
        self.disputes = [dispute for dispute in state.disputes if self._received(dispute.id, dispute.reports)]
        owners: list[ReceivedObject | None] = [self.intent, self.session, *self.charges]
        self.owners = [each for each in owners if each is not None]

    def _received(self, id_: str, reports: Sequence[Report]) -> ReceivedObject | None:
        known = ReceivedObject(id_, reports, self.without)
        return known if known.reports else None

    def _first_session(self) -> ReceivedObject | None:
        """Of several the one created first; those of 2019 do not say when."""
        of_payments = [session for session in self.state.sessions if session.mode == "payment"]
        known = [each for s in of_payments if (each := self._received(s.id, s.reports))]
        return min(known, key=lambda each: (each.newest("created") or 0, each.id), default=None)

    def _invoice(self) -> tuple[ReceivedObject | None, ReceivedObject | None, ReceivedObject | None]:
        """The invoice of the PaymentIntent, its subscription, and the subscription's session; None if unknown."""
        of = self.state.invoice
        if of is None or not self._is_joined():
            return None, None, None
        invoice = self._received(of.id, of.reports)
        if invoice is None or of.subscription is None:
            return invoice, None, None
        session: Session | None = of.subscription.session
        subscription = self._received(of.subscription.id, of.subscription.reports)
        known = self._received(session.id, session.reports) if session else None
        return invoice, subscription, known if known and known.newest("subscription") else None

    def _is_joined(self) -> bool:
        """Whether an event named both the invoice and the PaymentIntent."""
        invoice = self.state.invoice
        if invoice is None:
            return False
        names_intent = [
            *(r.shown.get("payment_intent") for r in invoice.reports if r.type not in self.without),
            *(r.shown["payment"]["payment_intent"] for r in invoice.payment_reports if r.type not in self.without),
        ]
        payers = [each for each in (self.intent, *self.charges) if each]
        paths = (("invoice",), ("payment_details", "order_reference"))
        names_invoice = [each.newest(*path) for each in payers for path in paths]
        return invoice.payment_intent in names_intent or invoice.id in names_invoice

    def ticket(self) -> str | None:
        """The first that can be a ticket's id."""
        metadata = ("metadata", "ticketId")
        intent, session = self.intent, self.session or self.subscription_session
        return first(
            [
                intent.newest_ticket(*metadata) if intent else None,
                *(charge.newest_ticket(*metadata) for charge in self.charges),
                self._invoice_ticket(),
                self.subscription.newest_ticket(*metadata) if self.subscription else None,
                session.newest_ticket(*metadata) if session else None,
                session.newest_ticket("client_reference_id") if session else None,
            ]
        )

    def consent(self) -> bool:
        """What the donor chose in the session; in the subscription's for a monthly donation."""
        sessions = [each for each in (self.session, self.subscription_session) if each]
        chosen = [choice for session in sessions if (choice := session.newest_choice())]
        return chosen[:1] == ["yes"]

    def _invoice_ticket(self) -> str | None:
        """Of the snapshot of the subscription's metadata, in the shape of the API version."""
        if self.invoice is None or self.state.invoice is None or self.state.invoice.subscription is None:
            return None
        shown = self.invoice.reports[-1].shown
        if "parent" in shown:
            return ticket_of(value_at(shown, ("parent", "subscription_details", "metadata", "ticketId")))
        details = ticket_of(value_at(shown, ("subscription_details", "metadata", "ticketId")))
        return details or first(ticket_of(line["metadata"].get("ticketId")) for line in shown["lines"]["data"])

    def donors(self, *, with_invoice: bool = True) -> list[Donor]:
        """Who may have given, in the order of sources. A charge that failed names no donor.

        A subscription's session gives its donations a ticket, but no donor: each has a charge and an invoice for that.
        """
        others = [self.session, self.invoice if with_invoice else None]
        return [*self._charge_donors(), *(each.newest_donor() for each in others if each)]

    def _charge_donors(self) -> list[Donor]:
        return [charge.newest_donor() for charge in self.charges if not charge.is_failed]

    def email(self) -> str | None:
        """The first that is not blank."""
        receipt = (self.intent.newest("receipt_email") if self.intent else None) or ""
        others = [each.newest_donor().email for each in (self.session, self.invoice) if each]
        charged = [donor.email for donor in self._charge_donors()]
        return first([*charged, receipt.strip().lower(), *others])

    def amount(self) -> tuple[int | None, str | None]:
        """The first that is not zero, and the currency of the object that names it."""
        intent, session = self.intent, self.session
        taken = next(((charge.captured(), charge) for charge in self.charges if charge.captured()), (0, None))
        received = (intent.newest("amount_received") or 0 if intent else 0), intent
        amounts: list[tuple[Any, ReceivedObject | None]] = [
            max(taken, received, key=lambda named: named[0]),
            (session.newest("amount_total") if session else 0, session),
            (intent.newest("amount") if intent else 0, intent),
            *((charge.newest("amount"), charge) for charge in self.charges),
        ]
        amount, named_by = next(((amount, by) for amount, by in amounts if amount), (None, None))
        named = (each.newest("currency") for each in (named_by, *self.charges, intent, session) if each)
        currency = first(named)
        return amount, currency.upper() if currency else None

    def paid_at(self) -> int | None:
        """When money came: by the events that say so, else by a charge that took some, else by intent or session."""
        returned = max((charge.failed_late_at() for charge in self.charges), default=0)
        succeeded = self.intent.times(lambda report: report.type == "payment_intent.succeeded") if self.intent else []
        reported = [*_since(returned, succeeded), *(at for charge in self.charges for at in charge.paid_times())]
        if reported:
            return min(reported)
        if any(charge.holds_money for charge in self.charges):
            return next(charge.created for charge in self.charges if charge.holds_money)
        received = self.intent.times(lambda report: report.shown["amount_received"] > 0) if self.intent else []
        paid = self.session.times(lambda report: report.shown.get("payment_status") == "paid") if self.session else []
        return min([*_since(returned, received), *_since(returned, paid)], default=None)

    def paid(self) -> int:
        """What was received."""
        return (self.amount()[0] or 0) if self.paid_at() is not None else 0

    def refunded(self) -> int:
        """The refunds that stand; where no object has the captured amount, also what was released."""
        taken = [charge.of for charge in self.charges if charge.holds_money]
        released = 0 if self.has_amount_captured else sum(charge.released for charge in taken)
        return released + sum(refund.amount for refund in self.refunds if refund.stands)

    def refunded_at(self) -> int | None:
        """When the first money went back, even if that refund failed later."""
        if not self.refunded():
            return None
        events = [at for charge in self.charges for at in charge.refunded_times(self.has_amount_captured)]
        created = [refund.created for refund in self.refunds if self._received(refund.id, refund.reports)]
        return min(events or created, default=None)

    def disputed(self) -> int:
        """What the disputes hold or took, each at most once and never more than is left."""
        amount, currency = self.amount()
        held = sum(
            dispute.amount if dispute.currency.upper() == currency else amount or 0
            for dispute in self.disputes
            if dispute.takes_money
        )
        return held if amount is None else max(0, min(held, amount - self.refunded()))

    def created_at(self) -> int:
        """When the donation began, by the earliest of its objects."""
        begun: list[int] = [at for each in (self.session, self.intent) if each and (at := each.newest("created"))]
        if begun:
            return min(begun)
        if self.charges:
            return self.charges[0].created
        return min(report.at for session in self.state.sessions for report in session.reports)

    def status(self) -> str:
        """The first that applies, in the order of precedence."""
        if any(dispute.is_open_or_lost for dispute in self.disputes):
            return "DISPUTED"
        if self.paid_at() is not None:
            return "REFUNDED" if 0 < self.refunded() >= (self.amount()[0] or 0) else "PAID"
        ended = {"checkout.session.expired", "payment_intent.canceled"}
        if any(each.has(*ended) for each in (self.session, self.intent) if each):
            return "EXPIRED"
        failed = {"payment_intent.payment_failed", "checkout.session.async_payment_failed"}
        declined = [each.has(*failed) for each in (self.session, self.intent) if each]
        return "FAILED" if any([*declined, *(charge.is_failed for charge in self.charges)]) else "CREATED"


@dataclass
class LargestAmounts:
    """The largest amounts that a donation ever had, at any moment."""

    paid: int = 0
    refunded: int = 0
    disputed: int = 0

    def include(self, state: State) -> None:
        """Raises each of them to the present amount."""
        received = _Received(state, frozenset())
        if received.owners:
            self.paid = max(self.paid, received.paid())
            self.refunded = max(self.refunded, received.refunded())
            self.disputed = max(self.disputed, received.disputed())


def _since(second: int, times: list[int]) -> list[int]:
    """The earliest and the newest are what is kept; the earliest of them that is not before this second."""
    return [at for at in (min(times), max(times)) if at >= second][:1] if times else []

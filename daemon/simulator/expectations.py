"""What the ledger must say of a payment, read from Stripe's own books and never from its events (SPEC 3)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from daemon.simulator.stripe_model import NOBODY, Books, Charge, PaymentIntent, Session, ticket_of

T = TypeVar("T")

# Families of events that an endpoint may not be subscribed to.
CHARGE_REFUNDED = frozenset({"charge.refunded"})
CHARGE_UPDATED = frozenset({"charge.updated"})
REFUNDS = frozenset({"refund.created", "refund.updated", "refund.failed", "charge.refund.updated"})


@dataclass(frozen=True)
class Expected:
    """What the ledger must say of one donation. Amounts in minor units, times in Unix seconds, None if unknown."""

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


def expect(books: Books) -> Expected | None:
    """What must be shown once all events are in; None where they make no donation."""
    heard = _Heard(books)
    if not heard.owners:
        return None
    return Expected(
        donation=books.intent.id if books.intent else heard.owners[0].id,
        ticket=heard.ticket(),
        amount_minor=heard.amount(),
        currency=heard.currency(),
        refunded_minor=heard.refunded(),
        disputed_minor=heard.disputed(),
        status=heard.status(),
        donor=_first([*(c.donor.last_name for c in heard.charges), heard.customer.last_name]),
        country=_first([*(c.donor.country for c in heard.charges), heard.customer.country]),
        email=heard.email(),
        created_at=heard.created_at(),
        paid_at=heard.paid_at(),
        refunded_at=heard.refunded_at(),
        session_id=heard.session.id if heard.session else None,
        account=books.account,
    )


def dispensable(books: Books) -> frozenset[frozenset[str]]:
    """The families of events without any one of which the ledger must still say the same.

    None if others are left out already: each family can be spared as long as the rest is told.
    """
    if books.unheard:
        return frozenset()
    charges = books.charges
    never_released = books.api.says_captured or not any(charge.released for charge in charges)
    holds = {
        # Every refund was told by itself, and no snapshot can be read as if it held one that it does not.
        CHARGE_REFUNDED: never_released and all(refund.told and not refund.hidden for refund in books.refunds),
        CHARGE_UPDATED: not any(charge.told_otherwise for charge in charges),
        # No refund came or went since the charge was last told.
        REFUNDS: all(charge.told_refunded == charge.amount_refunded for charge in charges),
    }
    return frozenset(family for family, still in holds.items() if still)


class _Heard:
    """What events have carried of the books; the rest nobody can know. Sources speak in SPEC's order."""

    def __init__(self, books: Books) -> None:
        self.api = books.api
        self.books = books
        told = [session for session in books.sessions if session.told_at is not None and session.mode == "payment"]
        self.session = min(told, key=self._created_first, default=None)
        self.customer = self.session.donor if self.session and self.api.says_session else NOBODY
        self.intent = books.intent if books.intent and books.intent.told else None
        heard = (charge for charge in books.charges if charge.told_at is not None)
        self.charges = sorted(heard, key=lambda charge: (charge.took_money, charge.created, charge.id), reverse=True)
        self.refunds = [refund for refund in books.refunds if refund.told or refund.charge.told_at is not None]
        self.disputes = [dispute for dispute in books.disputes if dispute.told]
        owners: list[PaymentIntent | Session | Charge | None] = [self.intent, self.session, *self.charges]
        self.owners = [each for each in owners if each is not None]

    def _created_first(self, session: Session) -> tuple[int, str]:
        return session.created if self.api.says_session else 0, session.id

    def ticket(self) -> str | None:
        """The first that can be a ticket's id."""
        session, intent = self.session, self.intent
        return _first(
            [
                ticket_of(intent.metadata.get("ticketId")) if intent else None,
                *(charge.ticket for charge in self.charges),
                ticket_of(session.metadata.get("ticketId")) if session else None,
                ticket_of(session.client_reference_id) if session else None,
            ]
        )

    def email(self) -> str | None:
        """The first that is not blank."""
        receipt = self.intent.receipt_email if self.intent else None
        emails = [*(charge.donor.email for charge in self.charges), receipt, self.customer.email]
        return next((normal for email in emails if (normal := (email or "").strip().lower())), None)

    def amount(self) -> int | None:
        """The first that is not zero."""
        intent = self.intent
        session_total = self.session.amount if self.session and self.api.says_session else 0
        amounts = [
            *(self._captured(charge) for charge in self.charges),
            intent.amount_received if intent else 0,
            session_total,
            intent.amount if intent else 0,
            *(charge.amount for charge in self.charges),
        ]
        return next((amount for amount in amounts if amount), None)

    def _captured(self, charge: Charge) -> int:
        """What the charge says was captured; an old one does not say, and its whole amount counts."""
        return charge.amount_captured if self.api.says_captured else charge.amount if charge.took_money else 0

    def currency(self) -> str | None:
        """All objects of a payment name the same one; only an old session names none."""
        named = [each for each in self.owners if self.api.says_session or each is not self.session]
        return named[0].currency.upper() if named else None

    def paid_at(self) -> int | None:
        """When money came: by the events that say so, else by a charge that took some, else by a paid session."""
        if self.books.paid_told_at is not None:
            return self.books.paid_told_at
        charged = next((charge.created for charge in self.charges if charge.took_money), None)
        session = self.session.paid_told_at if self.session and self.api.says_session else None
        return session if charged is None else charged

    def paid(self) -> int:
        """What came."""
        return (self.amount() or 0) if self.paid_at() is not None else 0

    def refunded(self) -> int:
        """The refunds that stand; where nothing says how much was captured, also what was released."""
        taken = [charge for charge in self.charges if charge.took_money]
        released = 0 if self.api.says_captured else sum(charge.released for charge in taken)
        return released + sum(refund.amount for refund in self.refunds if refund.stands)

    def refunded_at(self) -> int | None:
        """When the first money went back, even if that refund failed later."""
        if not self.refunded():
            return None
        released = [] if self.api.says_captured else [c.paid_at for c in self.charges if c.released and c.paid_at]
        return min([*released, *(refund.created for refund in self.refunds)])

    def disputed(self) -> int:
        """What the disputes hold or took, each at most once and never more than is left."""
        amount, currency = self.amount() or 0, self.currency() or ""
        held = sum(
            dispute.amount if dispute.currency.upper() == currency else amount
            for dispute in self.disputes
            if dispute.takes_money
        )
        return min(held, amount - self.refunded())

    def created_at(self) -> int:
        """When the donation began, as far as anybody says."""
        session = self.session.created if self.session and self.api.says_session else None
        begun = [created for created in (session, self.intent.created if self.intent else None) if created is not None]
        if begun:
            return min(begun)
        if self.charges:
            return self.charges[0].created
        return min(session.told_at for session in self.books.sessions if session.told_at is not None)

    def status(self) -> str:
        """The first that holds, in SPEC's order."""
        if any(dispute.open_or_lost for dispute in self.disputes):
            return "DISPUTED"
        if self.paid_at() is not None:
            return "REFUNDED" if self.refunded() >= (self.amount() or 0) else "PAID"
        if (self.session and self.session.status == "expired") or (self.intent and self.intent.status == "canceled"):
            return "EXPIRED"
        failed = [*(charge.status == "failed" for charge in self.charges)]
        failed += [each.was_declined for each in (self.session, self.intent) if each]
        return "FAILED" if any(failed) else "CREATED"


@dataclass
class Most:
    """The largest amounts that a donation ever had, at any moment of its life."""

    paid: int = 0
    refunded: int = 0
    disputed: int = 0

    def look(self, books: Books) -> None:
        """Takes the present amounts into account."""
        heard = _Heard(books)
        if heard.owners:
            self.paid = max(self.paid, heard.paid())
            self.refunded = max(self.refunded, heard.refunded())
            self.disputed = max(self.disputed, heard.disputed())


def _first(values: Iterable[T | None]) -> T | None:
    return next((value for value in values if value), None)

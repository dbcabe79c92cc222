"""Pure: what PaymentIntents and charges state."""

from typing import Annotated

import msgspec
from msgspec import Meta, Raw, Struct

from daemon.ledger import privacy
from daemon.ledger.events.event_facts import EventFacts, Handler
from daemon.ledger.events.fields import (
    NULL,
    Currency,
    Id,
    Metadata,
    Minor,
    Reference,
    Seconds,
    ticket_of,
    upper,
)
from daemon.ledger.facts import FactName, Family, ObjectFacts, value

CHARGE_STATUSES = frozenset({"succeeded", "pending", "failed"})

_invoice_id = msgspec.json.Decoder(Annotated[str, Meta(pattern=r"^in_[A-Za-z0-9_]{1,252}\Z")] | None)


class _Charge(Struct):
    id: Id
    amount: Minor | None = None
    amount_captured: Minor | None = None
    amount_refunded: Minor | None = None
    captured: bool | None = None
    paid: bool | None = None
    status: str | None = None
    created: Seconds | None = None
    currency: Currency | None = None
    payment_intent: Reference = None
    invoice: Reference = None
    source_transfer: Raw = NULL
    metadata: Metadata | None = None
    billing_details: Raw = NULL

    @property
    def is_transferred(self) -> bool:
        """Whether it is the connected account's side of a destination charge, which is no donation."""
        return self.source_transfer != NULL

    @property
    def taken(self) -> int:
        """The amount captured in this snapshot. Before 2020-09 it had no field of its own."""
        if self.amount_captured is None:
            return (self.amount or 0) if self.paid and self.captured and self.status == "succeeded" else 0
        return self.amount_captured

    @property
    def took_money(self) -> bool:
        """Decided by the amount: after a first of several captures `captured` is still false (SPEC 3, paidAt)."""
        return bool(self.paid and self.status == "succeeded" and self.taken)


class _Charges(Struct):
    data: list[_Charge] = []


class _PaymentDetails(Struct):
    order_reference: Raw = NULL


class _PaymentIntent(Struct):
    id: Id
    amount: Minor | None = None
    amount_received: Minor | None = None
    created: Seconds | None = None
    currency: Currency | None = None
    status: str | None = None
    latest_charge: Id | _Charge | None = None
    charges: _Charges | None = None
    invoice: Reference = None
    payment_details: _PaymentDetails | None = None
    metadata: Metadata | None = None
    receipt_email: Raw = NULL


def _payment_intent(event: EventFacts, raw: Raw) -> str | None:
    intent = msgspec.json.decode(raw, type=_PaymentIntent)
    known = event.add(
        Family.PAYMENT_INTENT,
        intent.id,
        {
            FactName.AMOUNT: intent.amount or None,
            FactName.RECEIVED: intent.amount_received or None,
            FactName.CREATED: intent.created,
            FactName.CURRENCY: upper(intent.currency),
            FactName.TICKET: ticket_of(intent.metadata),
            FactName.EMAIL_HASH: privacy.reduce_email(intent.receipt_email, event.hash_key),
        },
    )
    if intent.amount_received:
        known |= {FactName.RECEIVED_FIRST: event.at, FactName.RECEIVED_LAST: [event.at, 1]}
        known[FactName.CAPTURES] = {str(intent.amount_received): event.at}
    if event.type == "payment_intent.succeeded":
        known |= {FactName.PAID: event.at, FactName.PAID_LAST: [event.at, 1]}
    if event.type == "payment_intent.payment_failed":
        known[FactName.FAILED] = event.at
        if not intent.latest_charge and not intent.charges:  # `charge.failed` reports the others
            event.set_attempt(intent.metadata, None, value(known, FactName.EMAIL_HASH), failed=True)
    if "canceled" in (event.type.rpartition(".")[2], intent.status):
        known[FactName.CANCELED] = event.at
    event.set_invoice(Family.PAYMENT_INTENT, intent.id, _invoice_of(event, intent))
    _add_charges(event, intent)
    return None


def _add_charges(event: EventFacts, intent: _PaymentIntent) -> None:
    """The charges in a PaymentIntent: until 2022-11-15 all of them, since then the latest, as an id or as an object."""
    charges = intent.charges.data if intent.charges else []
    if isinstance(intent.latest_charge, _Charge):
        charges = [*charges, intent.latest_charge]
    elif intent.latest_charge:
        event.name(Family.CHARGE, intent.latest_charge)[FactName.PAYMENT_INTENT] = [event.at, intent.id]
    for charge in charges:
        if not charge.is_transferred:
            _add_charge(event, charge, intent.id)


def _invoice_of(event: EventFacts, intent: _PaymentIntent) -> str | None:
    """The invoice that a PaymentIntent names: in a field of its own, since 2025-03-31 as its order's reference."""
    if intent.invoice:
        return event.link(Family.INVOICE, intent.invoice)
    try:
        reference = _invoice_id.decode(intent.payment_details.order_reference) if intent.payment_details else None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return event.link(Family.INVOICE, reference)


def _charge(event: EventFacts, raw: Raw) -> str | None:
    charge = msgspec.json.decode(raw, type=_Charge)
    if charge.is_transferred:
        return "this charge is the connected account's side of a destination charge"
    known = _add_charge(event, charge, None)
    if charge.took_money and event.type in ("charge.succeeded", "charge.captured"):
        known[FactName.PAID] = event.at
    if event.type == "charge.succeeded":
        country, email_hash = value(known, FactName.COUNTRY), value(known, FactName.EMAIL_HASH)
        event.set_attempt(charge.metadata, country, email_hash, failed=False)
    if event.type == "charge.failed":
        known[FactName.FAILED] = event.at
        donor = event.reduce_donor(charge.billing_details)
        event.set_attempt(charge.metadata, donor.country, donor.email_hash, failed=True)
    if event.type == "charge.refunded" and charge.amount_refunded:
        known[FactName.REFUND_EVENTS] = {str(charge.amount_refunded): event.at}
    return None


def _add_charge(event: EventFacts, charge: _Charge, payment_intent: str | None) -> ObjectFacts:
    """A charge, wherever it was found. One that failed names no donor: card testers use other people's cards."""
    donor = privacy.Donor() if charge.status == "failed" else event.reduce_donor(charge.billing_details)
    known = event.add(
        Family.CHARGE,
        charge.id,
        {
            FactName.PAYMENT_INTENT: event.link(Family.PAYMENT_INTENT, charge.payment_intent) or payment_intent,
            FactName.AMOUNT: charge.amount or None,
            FactName.TAKEN: charge.taken or None,
            FactName.RETURNED: charge.amount_refunded,
            FactName.FLAG: charge.captured,
            FactName.STATUS: charge.status if charge.status in CHARGE_STATUSES else None,
            FactName.CREATED: charge.created,
            FactName.CURRENCY: upper(charge.currency),
            FactName.TICKET: ticket_of(charge.metadata),
            FactName.LAST_NAME: donor.last_name,
            FactName.COUNTRY: donor.country,
            FactName.EMAIL_HASH: donor.email_hash,
        },
    )
    event.set_invoice(Family.CHARGE, charge.id, event.link(Family.INVOICE, charge.invoice))
    known[FactName.CAPTURED if charge.took_money else FactName.NOT_TAKEN] = event.at
    if charge.taken:
        known[FactName.CAPTURES] = {str(charge.taken): event.at}
    if charge.amount_captured and charge.captured is not False and charge.amount_refunded is not None:
        known[FactName.RETURNED_LEAST] = charge.amount_refunded
    if charge.amount_refunded:
        known[FactName.REFUNDS] = {str(charge.amount_refunded): event.at}
        known[FactName.SNAPSHOTS] = {str(event.at): [event.at, charge.amount_refunded]}
    if charge.status == "failed":
        known[FactName.FAILED] = event.at
    return known


HANDLERS: dict[str, Handler] = {
    **{
        f"payment_intent.{name}": _payment_intent
        for name in ("succeeded", "payment_failed", "canceled", "processing", "created")
    },
    **{f"charge.{name}": _charge for name in ("succeeded", "updated", "captured", "failed", "refunded")},
}

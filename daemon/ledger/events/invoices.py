"""Pure: what subscriptions, invoices and the payments of invoices state."""

import msgspec
from msgspec import Raw, Struct

from daemon.ledger import privacy
from daemon.ledger.events.event_facts import EventFacts, Handler, subscription_key
from daemon.ledger.events.fields import NULL, Id, Metadata, Reference, id_of, ticket_of
from daemon.ledger.facts import FactName, Family


class _Subscription(Struct):
    id: Id
    metadata: Metadata | None = None


class _SubscriptionDetails(Struct):
    subscription: Reference = None
    metadata: Metadata | None = None


class _Parent(Struct):
    subscription_details: _SubscriptionDetails | None = None


class _Line(Struct):
    metadata: Metadata | None = None


class _Lines(Struct):
    data: list[_Line] = []


class _Invoice(Struct):
    """Since API version 2025-03-31 `parent` holds the subscription; before, fields of their own did."""

    id: Id
    parent: _Parent | None = None
    payment_intent: Reference = None
    charge: Reference = None
    subscription: Reference = None
    subscription_details: _SubscriptionDetails | None = None
    lines: _Lines | None = None
    customer_name: Raw = NULL
    customer_email: Raw = NULL

    @property
    def details(self) -> _SubscriptionDetails:
        """The snapshot of the subscription, in whichever shape the invoice has it."""
        current = self.parent.subscription_details if self.parent else None
        return current or self.subscription_details or _SubscriptionDetails()

    @property
    def ticket(self) -> str | None:
        """The subscription's ticket when the invoice was made; the oldest shape has it on the lines only."""
        lines = self.lines.data if self.lines else []
        named = (ticket_of(metadata) for metadata in (self.details.metadata, *(line.metadata for line in lines)))
        return next((ticket for ticket in named if ticket), None)


class _Paid(Struct):
    payment_intent: Reference = None
    charge: Reference = None


class _InvoicePayment(Struct):
    id: Id
    invoice: Reference = None
    payment: _Paid | None = None


def _subscription(event: EventFacts, raw: Raw) -> str | None:
    subscription = msgspec.json.decode(raw, type=_Subscription)
    ticket = ticket_of(subscription.metadata)
    if ticket is None:
        return "this subscription names no ticket"
    event.add(Family.SUBSCRIPTION, subscription_key(subscription.id), {FactName.TICKET: ticket})
    return None


def _invoice(event: EventFacts, raw: Raw) -> str | None:
    invoice = msgspec.json.decode(raw, type=_Invoice)
    subscription = id_of(invoice.subscription or invoice.details.subscription)
    event.add(
        Family.INVOICE,
        invoice.id,
        {
            FactName.SUBSCRIPTION: subscription_key(subscription) if subscription else None,
            FactName.TICKET: invoice.ticket,
            FactName.LAST_NAME: privacy.reduce_name(invoice.customer_name),
            FactName.EMAIL_HASH: privacy.reduce_email(invoice.customer_email, event.hash_key),
        },
    )
    _add_payment(event, invoice.id, _Paid(invoice.payment_intent, invoice.charge))
    return None


def _invoice_payment(event: EventFacts, raw: Raw) -> str | None:
    payment = msgspec.json.decode(raw, type=_InvoicePayment)
    invoice = event.link(Family.INVOICE, payment.invoice)
    if invoice is None or payment.payment is None or not (payment.payment.payment_intent or payment.payment.charge):
        return "this payment of an invoice names no PaymentIntent and no charge"
    _add_payment(event, invoice, payment.payment)
    return None


def _add_payment(event: EventFacts, invoice: str, paid: _Paid) -> None:
    """What paid an invoice; a PaymentIntent and a charge that pay the same one are tied as well."""
    intent = event.link(Family.PAYMENT_INTENT, paid.payment_intent)
    charge = event.link(Family.CHARGE, paid.charge)
    if intent:
        event.set_invoice(Family.PAYMENT_INTENT, intent, invoice)
    if charge:
        event.set_invoice(Family.CHARGE, charge, invoice)
    if intent and charge:
        event.name(Family.CHARGE, charge)[FactName.PAYMENT_INTENT] = [event.at, intent]


HANDLERS: dict[str, Handler] = {
    **{f"invoice.{name}": _invoice for name in ("paid", "payment_succeeded")},
    "invoice_payment.paid": _invoice_payment,
    **{f"customer.subscription.{name}": _subscription for name in ("created", "updated", "deleted")},
}

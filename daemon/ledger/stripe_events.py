"""Pure: one Stripe event -> the facts that it states (facts.py).

A newest fact is written as the pair [the event's `created`, value], a first one as the event's `created`. Nothing here
depends on what came before.
"""

import re
from collections.abc import Callable, Mapping
from typing import Annotated

import msgspec
from msgspec import Meta, Raw, Struct

from daemon.ledger import privacy
from daemon.ledger.facts import (
    ID_PATTERN,
    RANKS,
    SHARED,
    STAGE_OF_UNKNOWN,
    TICKET_PATTERN,
    FactName,
    Facts,
    Family,
    ObjectFacts,
    value,
)

NULL = Raw(b"null")

Id = Annotated[str, Meta(pattern=ID_PATTERN)]
Minor = Annotated[int, Meta(ge=0, le=10**15)]  # Stripe's amounts have 12 digits at most
Seconds = Annotated[int, Meta(ge=0, le=253_402_300_799)]  # until the year 9999, where timestamps end
Currency = Annotated[str, Meta(pattern=r"^[A-Za-z]{3}\Z")]
Label = Annotated[str, Meta(pattern=r"^[a-z0-9_.]{1,100}\Z")]
WarningId = Annotated[str, Meta(pattern=r"^issfr_[A-Za-z0-9_]{1,249}\Z")]  # by this beginning they are found again
ThinLabel = Annotated[str, Meta(pattern=r"^[a-z0-9_.\[\]]{1,100}\Z")]  # v2.core.account[requirements].updated

_ticket = msgspec.json.Decoder(Annotated[str, Meta(pattern=TICKET_PATTERN)])
# The custom field of a Checkout Session that asks for consent; Stripe takes keys of letters and digits only.
SHOW_NAME_KEY, SHOW_NAME_YES = "showName", "yes"

_invoice_id = msgspec.json.Decoder(Annotated[str, Meta(pattern=r"^in_[A-Za-z0-9_]{1,252}\Z")] | None)

# How Stripe's ids of a family begin. The key of a row is only the id, so one that begins like another family's is
# rejected; a beginning that is not listed is accepted.
FAMILY_OF_PREFIX = {
    "pi": Family.PAYMENT_INTENT,
    "cs": Family.SESSION,
    "ch": Family.CHARGE,
    "py": Family.CHARGE,
    "re": Family.REFUND,
    "pyr": Family.REFUND,
    "dp": Family.DISPUTE,
    "du": Family.DISPUTE,
    "in": Family.INVOICE,
    "sub": Family.SUBSCRIPTION,
}

CHARGE_STATUSES = frozenset({"succeeded", "pending", "failed"})

REFUND_STATUSES = ("pending", "requires_action", "succeeded", "failed", "canceled")
VOID_REFUNDS = ("failed", "canceled")
STATUS_PATTERN = re.compile(r"[a-z0-9_]{1,64}")  # what may be kept of a status that we do not know

# One escape of a JSON string: a surrogate pair, a surrogate without its other half, or anything else.
_PAIR = rb"u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_ESCAPE = re.compile(rb"\\(?:" + _PAIR + rb"|(?P<lone>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL)


class NotAnEvent(Exception):
    """Signed bytes that are no Stripe event."""


class CannotApply(Exception):
    """An event of a handled type in a shape we do not know. The message names places and types, never values."""

    def __init__(self, event: "StripeEvent", reason: str) -> None:
        super().__init__(reason)
        self.event = event
        self.reason = reason


class Attempt(Struct, frozen=True):
    """An attempt to pay, as it is counted for signals of fraud (SPEC 11).

    A failed one may name a person whose card was stolen: its hash is counted outside the ledger, and is no fact.

    Args:
        account: the connected account, '' for the charity's own.
        ticket, country, email_hash: None where the event names none.
    """

    failed: bool
    account: str
    ticket: str | None
    country: str | None
    email_hash: str | None = None


class StripeEvent(Struct, frozen=True):
    """An event, reduced: what is recorded of it, and the facts it states.

    `facts` is None where it changes nothing; then `reason` is why. `unknown_status` is the family of an object whose
    status this release does not know. `attempt` is the attempt to pay that the event reports; each is reported once.
    """

    id: str
    type: str
    created: int
    livemode: bool
    facts: Facts | None
    reason: str | None = None
    unknown_status: str | None = None
    attempt: Attempt | None = None


class _Named(Struct):
    id: Id


Reference = Id | _Named | None  # Stripe's expandable fields: an id, or the object itself


class _Metadata(Struct):
    ticket: Raw = msgspec.field(name="ticketId", default=NULL)


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
    metadata: _Metadata | None = None
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
    metadata: _Metadata | None = None
    receipt_email: Raw = NULL


class _Session(Struct):
    id: Id
    amount_total: Minor | None = None
    created: Seconds | None = None
    currency: Currency | None = None
    mode: str | None = None
    status: str | None = None
    payment_status: str | None = None
    payment_intent: Reference = None
    subscription: Reference = None
    client_reference_id: Raw = NULL
    metadata: _Metadata | None = None
    customer_details: Raw = NULL
    custom_fields: Raw = NULL


class _Dropdown(Struct):
    value: str | None = None


class _CustomField(Struct):
    key: str
    dropdown: _Dropdown | None = None


_custom_fields = msgspec.json.Decoder(list[_CustomField])


class _Refund(Struct):
    id: Id
    amount: Minor
    created: Seconds | None = None
    currency: Currency | None = None
    status: str | None = None
    payment_intent: Reference = None
    charge: Reference = None


class _Dispute(Struct):
    id: Id
    amount: Minor
    status: str
    currency: Currency | None = None
    payment_intent: Reference = None
    charge: Reference = None


class _EarlyWarning(Struct):
    id: WarningId
    actionable: bool | None = None
    created: Seconds | None = None
    fraud_type: str | None = None
    payment_intent: Reference = None
    charge: Reference = None


class _Subscription(Struct):
    id: Id
    metadata: _Metadata | None = None


class _SubscriptionDetails(Struct):
    subscription: Reference = None
    metadata: _Metadata | None = None


class _Parent(Struct):
    subscription_details: _SubscriptionDetails | None = None


class _Line(Struct):
    metadata: _Metadata | None = None


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
        named = (_ticket_of(metadata) for metadata in (self.details.metadata, *(line.metadata for line in lines)))
        return next((ticket for ticket in named if ticket), None)


class _Paid(Struct):
    payment_intent: Reference = None
    charge: Reference = None


class _InvoicePayment(Struct):
    id: Id
    invoice: Reference = None
    payment: _Paid | None = None


class _Data(Struct):
    object: Raw


class _Envelope(Struct):
    id: Id
    type: Label
    created: Seconds
    livemode: bool
    data: _Data
    object: str = "event"
    account: Id | None = None


class _Thin(Struct):
    """A v2 event names its object instead of carrying it, and writes its time as text."""

    id: Id
    type: ThinLabel
    object: str
    livemode: bool = True


_envelope = msgspec.json.Decoder(_Envelope)
_thin = msgspec.json.Decoder(_Thin)


class _Statement:
    """Collects the facts of one event: everything that it states was so at the event's `created`."""

    def __init__(self, event: _Envelope, hash_key: bytes | None) -> None:
        self.type = event.type
        self.at = event.created
        self.account = event.account
        self.hash_key = hash_key
        self.facts: Facts = {}
        self.family_of: dict[str, Family] = {}
        self.unknown_status: str | None = None
        self.attempt: Attempt | None = None

    def name(self, family: Family, id_: str) -> ObjectFacts:
        """The facts of one object; naming it is enough to tie its id to this donation.

        Raises _Unknown for an id that belongs to another family, or that this event gives to objects of two families.
        """
        _check_family(family, id_)
        if self.family_of.setdefault(id_, family) != family:
            raise _Unknown("one id names two objects - at `$.id`")
        return self.facts.setdefault(family, {}).setdefault(id_, {} if family in SHARED else {FactName.SEEN: self.at})

    def add(self, family: Family, id_: str, newest: Mapping[FactName, object]) -> ObjectFacts:
        """States facts whose newest value is kept; None and empty values are not stated."""
        known = self.name(family, id_)
        known.update({name: [self.at, value] for name, value in newest.items() if value not in (None, "")})
        if self.account:
            known[FactName.ACCOUNT] = [self.at, self.account]
        return known

    def link(self, family: Family, reference: Reference) -> str | None:
        """The id that an expandable field names, tied to this donation."""
        id_ = reference.id if isinstance(reference, _Named) else reference
        if id_:
            self.name(family, id_)
        return id_ or None

    def set_invoice(self, family: Family, id_: str, invoice: str | None) -> None:
        """A PaymentIntent or a charge pays this invoice."""
        if invoice:
            self.name(family, id_)[FactName.INVOICE] = [self.at, invoice]

    def reduce_donor(self, details: Raw) -> privacy.Donor:
        """What may be kept of a donor."""
        return privacy.reduce_details(details, self.hash_key)

    def set_attempt(
        self, metadata: _Metadata | None, country: str | None, email_hash: str | None, *, failed: bool
    ) -> None:
        """The event reports an attempt to pay."""
        self.attempt = Attempt(failed, self.account or "", _ticket_of(metadata), country, email_hash)


def read(body: bytes, *, livemode: bool, hash_key: bytes | None, account: str | None = None) -> StripeEvent:
    """Reduces the raw body of a webhook.

    Args:
        body: JSON, already known to be signed.
        livemode: the mode whose events make donations.
        hash_key: the key of e-mail hashes, or None.
        account: the connected account that an event is from which does not say so, as one that was read from its list.

    Raises:
        NotAnEvent: it is no Stripe event at all.
        CannotApply: a handled type in an unexpected shape.
    """
    try:
        envelope = _decode_envelope(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _read_thin(body)
    if envelope.object != "event":
        raise NotAnEvent("the object is not an event")
    envelope.account = envelope.account or account
    if (handler := HANDLERS.get(envelope.type)) is None:
        return _unapplied(envelope, "this type changes nothing")
    if envelope.livemode != livemode:
        return _unapplied(envelope, "this is an event of the other mode")
    statement = _Statement(envelope, hash_key)
    try:
        reason = handler(statement, envelope.data.object)
    except UnicodeDecodeError:  # its own text names the byte
        raise CannotApply(_unapplied(envelope, ""), "a text is not UTF-8") from None
    except (msgspec.MsgspecError, RecursionError, _Unknown) as error:
        raise CannotApply(_unapplied(envelope, ""), str(error)[:500]) from None
    return _unapplied(envelope, reason) if reason else _event(envelope, statement)


def _decode_envelope(body: bytes) -> _Envelope:
    """The event; surrogates without their other half, which the decoder takes in no field, are replaced first."""
    try:
        return _envelope.decode(body)
    except msgspec.DecodeError:
        return _envelope.decode(_ESCAPE.sub(lambda found: rb"\ufffd" if found["lone"] else found[0], body))


def _read_thin(body: bytes) -> StripeEvent:
    try:
        thin = _thin.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise NotAnEvent("the body is not a Stripe event") from None
    if thin.object != "v2.core.event":
        raise NotAnEvent("the body is not a Stripe event")
    return StripeEvent(thin.id, thin.type, 0, thin.livemode, None, "a thin event changes nothing")


def _unapplied(event: _Envelope, reason: str) -> StripeEvent:
    return StripeEvent(event.id, event.type, event.created, event.livemode, None, reason)


def _event(event: _Envelope, statement: _Statement) -> StripeEvent:
    return StripeEvent(
        event.id,
        event.type,
        event.created,
        event.livemode,
        statement.facts,
        unknown_status=statement.unknown_status,
        attempt=statement.attempt,
    )


class _Unknown(ValueError):
    """A value we cannot interpret; the message does not repeat it."""


def _check_family(family: Family, id_: str) -> None:
    """Raises _Unknown for an id that begins as the ids of another family do."""
    if FAMILY_OF_PREFIX.get(id_.partition("_")[0], family) != family:
        raise _Unknown("an id is of another kind of object - at `$.id`")


def _ticket_of(metadata: _Metadata | None) -> str | None:
    return _ticket_id(metadata.ticket) if metadata else None


def _ticket_id(raw: Raw) -> str | None:
    """A ticket id, or None for anything that can't be one: free text may hold a person's details and is not kept."""
    try:
        ticket: str = _ticket.decode(raw)
    except msgspec.MsgspecError:
        return None
    return ticket


def _shows_name(custom_fields: Raw) -> int | None:
    """Whether the donor chose that the name is shown; None without the field, or before the donor has chosen.

    A money event never fails because of what a site asks in other fields (https://docs.stripe.com/payments/checkout/custom-fields).
    """
    if custom_fields in (NULL, b"[]"):
        return None
    try:
        fields = _custom_fields.decode(custom_fields)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    chosen = next((field.dropdown.value for field in fields if field.key == SHOW_NAME_KEY and field.dropdown), None)
    return None if chosen is None else int(chosen == SHOW_NAME_YES)


def _upper(currency: str | None) -> str | None:
    return currency.upper() if currency else None


def _payment_intent(statement: _Statement, raw: Raw) -> str | None:
    intent = msgspec.json.decode(raw, type=_PaymentIntent)
    known = statement.add(
        Family.PAYMENT_INTENT,
        intent.id,
        {
            FactName.AMOUNT: intent.amount or None,
            FactName.RECEIVED: intent.amount_received or None,
            FactName.CREATED: intent.created,
            FactName.CURRENCY: _upper(intent.currency),
            FactName.TICKET: _ticket_of(intent.metadata),
            FactName.EMAIL_HASH: privacy.reduce_email(intent.receipt_email, statement.hash_key),
        },
    )
    if intent.amount_received:
        known |= {FactName.RECEIVED_FIRST: statement.at, FactName.RECEIVED_LAST: [statement.at, 1]}
        known[FactName.CAPTURES] = {str(intent.amount_received): statement.at}
    if statement.type == "payment_intent.succeeded":
        known |= {FactName.PAID: statement.at, FactName.PAID_LAST: [statement.at, 1]}
    if statement.type == "payment_intent.payment_failed":
        known[FactName.FAILED] = statement.at
        if not intent.latest_charge and not intent.charges:  # `charge.failed` reports the others
            email_hash = privacy.reduce_email(intent.receipt_email, statement.hash_key)
            statement.set_attempt(intent.metadata, None, email_hash, failed=True)
    if "canceled" in (statement.type.rpartition(".")[2], intent.status):
        known[FactName.CANCELED] = statement.at
    statement.set_invoice(Family.PAYMENT_INTENT, intent.id, _invoice_of(statement, intent))
    charges = intent.charges.data if intent.charges else []
    if isinstance(intent.latest_charge, _Charge):
        charges = [*charges, intent.latest_charge]
    elif intent.latest_charge:
        statement.name(Family.CHARGE, intent.latest_charge)[FactName.PAYMENT_INTENT] = [statement.at, intent.id]
    for charge in charges:
        if not charge.is_transferred:
            _add_charge(statement, charge, intent.id)
    return None


def _invoice_of(statement: _Statement, intent: _PaymentIntent) -> str | None:
    """The invoice that a PaymentIntent names: in a field of its own, since 2025-03-31 as its order's reference."""
    if intent.invoice:
        return statement.link(Family.INVOICE, intent.invoice)
    try:
        reference = _invoice_id.decode(intent.payment_details.order_reference) if intent.payment_details else None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return statement.link(Family.INVOICE, reference)


def _charge(statement: _Statement, raw: Raw) -> str | None:
    charge = msgspec.json.decode(raw, type=_Charge)
    if charge.is_transferred:
        return "this charge is the connected account's side of a destination charge"
    known = _add_charge(statement, charge, None)
    if charge.took_money and statement.type in ("charge.succeeded", "charge.captured"):
        known[FactName.PAID] = statement.at
    if statement.type == "charge.succeeded":
        country, email_hash = value(known, FactName.COUNTRY), value(known, FactName.EMAIL_HASH)
        statement.set_attempt(charge.metadata, country, email_hash, failed=False)
    if statement.type == "charge.failed":
        known[FactName.FAILED] = statement.at
        donor = statement.reduce_donor(charge.billing_details)
        statement.set_attempt(charge.metadata, donor.country, donor.email_hash, failed=True)
    if statement.type == "charge.refunded" and charge.amount_refunded:
        known[FactName.REFUND_EVENTS] = {str(charge.amount_refunded): statement.at}
    return None


def _add_charge(statement: _Statement, charge: _Charge, payment_intent: str | None) -> ObjectFacts:
    """A charge, wherever it was found. One that failed names no donor: card testers use other people's cards."""
    donor = privacy.Donor() if charge.status == "failed" else statement.reduce_donor(charge.billing_details)
    known = statement.add(
        Family.CHARGE,
        charge.id,
        {
            FactName.PAYMENT_INTENT: statement.link(Family.PAYMENT_INTENT, charge.payment_intent) or payment_intent,
            FactName.AMOUNT: charge.amount or None,
            FactName.TAKEN: charge.taken or None,
            FactName.RETURNED: charge.amount_refunded,
            FactName.FLAG: charge.captured,
            FactName.STATUS: charge.status if charge.status in CHARGE_STATUSES else None,
            FactName.CREATED: charge.created,
            FactName.CURRENCY: _upper(charge.currency),
            FactName.TICKET: _ticket_of(charge.metadata),
            FactName.LAST_NAME: donor.last_name,
            FactName.COUNTRY: donor.country,
            FactName.EMAIL_HASH: donor.email_hash,
        },
    )
    statement.set_invoice(Family.CHARGE, charge.id, statement.link(Family.INVOICE, charge.invoice))
    known[FactName.CAPTURED if charge.took_money else FactName.NOT_TAKEN] = statement.at
    if charge.taken:
        known[FactName.CAPTURES] = {str(charge.taken): statement.at}
    if charge.amount_captured and charge.captured is not False and charge.amount_refunded is not None:
        known[FactName.RETURNED_LEAST] = charge.amount_refunded
    if charge.amount_refunded:
        known[FactName.REFUNDS] = {str(charge.amount_refunded): statement.at}
        known[FactName.SNAPSHOTS] = {str(statement.at): [statement.at, charge.amount_refunded]}
    if charge.status == "failed":
        known[FactName.FAILED] = statement.at
    return known


def _session(statement: _Statement, raw: Raw) -> str | None:
    session = msgspec.json.decode(raw, type=_Session)
    if session.mode == "subscription":
        return _lend(statement, session)
    if session.mode not in (None, "payment"):
        return "a session of this mode is no donation"
    donor = statement.reduce_donor(session.customer_details)
    known = statement.add(
        Family.SESSION,
        session.id,
        {
            FactName.PAYMENT_INTENT: statement.link(Family.PAYMENT_INTENT, session.payment_intent),
            FactName.AMOUNT: session.amount_total or None,
            FactName.CREATED: session.created,
            FactName.CURRENCY: _upper(session.currency),
            FactName.TICKET: _ticket_of(session.metadata),
            FactName.REFERENCE: _ticket_id(session.client_reference_id),
            FactName.SHOW_NAME: _shows_name(session.custom_fields),
            FactName.LAST_NAME: donor.last_name,
            FactName.COUNTRY: donor.country,
            FactName.EMAIL_HASH: donor.email_hash,
        },
    )
    if session.payment_status == "paid":
        known |= {FactName.PAID: statement.at, FactName.PAID_LAST: [statement.at, 1]}
    if "expired" in (statement.type.rpartition(".")[2], session.status):
        known[FactName.EXPIRED] = statement.at
    if statement.type == "checkout.session.async_payment_failed":
        known[FactName.FAILED] = statement.at
    return None


def _lend(statement: _Statement, session: _Session) -> str | None:
    """A session that began a subscription is no donation, but states the subscription's ticket and consent."""
    lent = {
        FactName.SESSION_TICKET: _ticket_of(session.metadata),
        FactName.SESSION_REFERENCE: _ticket_id(session.client_reference_id),
        FactName.SESSION_SHOW_NAME: _shows_name(session.custom_fields),
    }
    subscription = session.subscription.id if isinstance(session.subscription, _Named) else session.subscription
    if not subscription or all(each is None for each in lent.values()):
        return "this session of a subscription names no ticket and no consent"
    statement.add(Family.SUBSCRIPTION, subscription, lent)
    return None


def _subscription(statement: _Statement, raw: Raw) -> str | None:
    subscription = msgspec.json.decode(raw, type=_Subscription)
    ticket = _ticket_of(subscription.metadata)
    if ticket is None:
        return "this subscription names no ticket"
    statement.add(Family.SUBSCRIPTION, subscription.id, {FactName.TICKET: ticket})
    return None


def _invoice(statement: _Statement, raw: Raw) -> str | None:
    invoice = msgspec.json.decode(raw, type=_Invoice)
    reference = invoice.subscription or invoice.details.subscription
    subscription = reference.id if isinstance(reference, _Named) else reference
    if subscription:
        _check_family(Family.SUBSCRIPTION, subscription)
    statement.add(
        Family.INVOICE,
        invoice.id,
        {
            FactName.SUBSCRIPTION: subscription,
            FactName.TICKET: invoice.ticket,
            FactName.LAST_NAME: privacy.reduce_name(invoice.customer_name),
            FactName.EMAIL_HASH: privacy.reduce_email(invoice.customer_email, statement.hash_key),
        },
    )
    _add_payment(statement, invoice.id, _Paid(invoice.payment_intent, invoice.charge))
    return None


def _invoice_payment(statement: _Statement, raw: Raw) -> str | None:
    payment = msgspec.json.decode(raw, type=_InvoicePayment)
    invoice = statement.link(Family.INVOICE, payment.invoice)
    if invoice is None or payment.payment is None or not (payment.payment.payment_intent or payment.payment.charge):
        return "this payment of an invoice names no PaymentIntent and no charge"
    _add_payment(statement, invoice, payment.payment)
    return None


def _add_payment(statement: _Statement, invoice: str, paid: _Paid) -> None:
    """What paid an invoice; a PaymentIntent and a charge that pay the same one are tied as well."""
    intent, charge = (
        statement.link(Family.PAYMENT_INTENT, paid.payment_intent),
        statement.link(Family.CHARGE, paid.charge),
    )
    if intent:
        statement.set_invoice(Family.PAYMENT_INTENT, intent, invoice)
    if charge:
        statement.set_invoice(Family.CHARGE, charge, invoice)
    if intent and charge:
        statement.name(Family.CHARGE, charge)[FactName.PAYMENT_INTENT] = [statement.at, intent]


def _refund(statement: _Statement, raw: Raw) -> str | None:
    refund = msgspec.json.decode(raw, type=_Refund)
    intent, charge = _owners(statement, refund)
    if intent is None and charge is None:
        return "this refund names neither a charge nor a PaymentIntent: it came from a customer's cash balance"
    known = statement.add(
        Family.REFUND,
        refund.id,
        {
            FactName.PAYMENT_INTENT: intent,
            FactName.CHARGE: charge,
            FactName.AMOUNT: refund.amount or None,
            FactName.CREATED: refund.created,
            FactName.CURRENCY: _upper(refund.currency),
        },
    )
    if refund.status in VOID_REFUNDS:
        known[FactName.FAILED] = statement.at
    if refund.status not in (None, *REFUND_STATUSES):
        statement.unknown_status = "refund"
    return None


def _dispute(statement: _Statement, raw: Raw) -> str | None:
    dispute = msgspec.json.decode(raw, type=_Dispute)
    intent, charge = _owners(statement, dispute)
    if intent is None and charge is None:
        return "this dispute names neither a charge nor a PaymentIntent"
    if dispute.status not in RANKS:
        statement.unknown_status = "dispute"
    status = dispute.status if STATUS_PATTERN.fullmatch(dispute.status) else "unknown"
    known = statement.add(
        Family.DISPUTE,
        dispute.id,
        {
            FactName.PAYMENT_INTENT: intent,
            FactName.CHARGE: charge,
            FactName.STAGE: [RANKS.get(status, STAGE_OF_UNKNOWN), dispute.amount, status],
            FactName.CURRENCY: _upper(dispute.currency),
        },
    )
    # Per status the earliest and the newest event: a negative time makes the earliest the greatest pair.
    known[FactName.HISTORY] = {
        status: {"first": [-statement.at, dispute.amount], "last": [statement.at, dispute.amount]}
    }
    return None


def _early_warning(statement: _Statement, raw: Raw) -> str | None:
    """The card's issuer believes that a charge is fraud. A warning is actionable until the charge is disputed or wholly
    refunded (https://docs.stripe.com/api/radar/early_fraud_warnings/object)."""
    warning = msgspec.json.decode(raw, type=_EarlyWarning)
    _intent, charge = _owners(statement, warning)
    if charge is None:
        return "this early fraud warning names no charge"
    kind = warning.fraud_type if STATUS_PATTERN.fullmatch(warning.fraud_type or "") else "unknown"
    made_at = statement.at if warning.created is None else warning.created
    known = statement.add(Family.CHARGE, charge, {})
    known[FactName.WARNINGS] = {warning.id: [statement.at, [int(warning.actionable is False), made_at, kind]]}
    return None


def _owners(statement: _Statement, child: _Refund | _Dispute | _EarlyWarning) -> tuple[str | None, str | None]:
    """The PaymentIntent and the charge that a refund, a dispute or a warning names; the two are tied as well."""
    intent = statement.link(Family.PAYMENT_INTENT, child.payment_intent)
    charge = statement.link(Family.CHARGE, child.charge)
    if intent and charge:
        statement.name(Family.CHARGE, charge)[FactName.PAYMENT_INTENT] = [statement.at, intent]
    return intent, charge


Handler = Callable[[_Statement, Raw], str | None]

HANDLERS: dict[str, Handler] = {
    **{
        f"checkout.session.{name}": _session
        for name in ("completed", "async_payment_succeeded", "async_payment_failed", "expired")
    },
    **{
        f"payment_intent.{name}": _payment_intent
        for name in ("succeeded", "payment_failed", "canceled", "processing", "created")
    },
    **{f"charge.{name}": _charge for name in ("succeeded", "updated", "captured", "failed", "refunded")},
    **{f"refund.{name}": _refund for name in ("created", "updated", "failed")},
    "charge.refund.updated": _refund,
    **{
        f"charge.dispute.{name}": _dispute
        for name in ("created", "updated", "closed", "funds_withdrawn", "funds_reinstated")
    },
    **{f"radar.early_fraud_warning.{name}": _early_warning for name in ("created", "updated")},
    **{f"invoice.{name}": _invoice for name in ("paid", "payment_succeeded")},
    "invoice_payment.paid": _invoice_payment,
    **{f"customer.subscription.{name}": _subscription for name in ("created", "updated", "deleted")},
}

"""Pure: one Stripe event -> the facts it states.

Facts are kept per Stripe object, under the object's family and id:

    {"pi": {"pi_1": {"amount": (1700000000, 5000), "paid": 1700000000}}, "ch": {"ch_1": {...}}}

A fact is one of two kinds, told apart by its form. A pair (event's `created`, value) is *newest*: the greater pair
stands. A bare number is *first*: the smaller one stands; that it exists at all is the flag. So merging facts
(`fold.merge`) needs to know nothing about their meaning, and nothing here depends on what came before.
"""

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct

from daemon import privacy

# A newest fact is [at, value] and a first fact is its time; lists, because that is what JSON gives back.
Fact = list[Any] | int
Facts = dict[str, dict[str, dict[str, Fact]]]

NULL = Raw(b"null")

ID_PATTERN = r"^[A-Za-z0-9_]{1,255}\Z"
Id = Annotated[str, Meta(pattern=ID_PATTERN)]
Minor = Annotated[int, Meta(ge=0, le=10**15)]  # Stripe's amounts have 12 digits at most
Seconds = Annotated[int, Meta(ge=0, le=253_402_300_799)]  # until the year 9999, where timestamps end
Currency = Annotated[str, Meta(pattern=r"^[A-Za-z]{3}\Z")]
Label = Annotated[str, Meta(pattern=r"^[a-z0-9_.]{1,100}\Z")]
ThinLabel = Annotated[str, Meta(pattern=r"^[a-z0-9_.\[\]]{1,100}\Z")]  # v2.core.account[requirements].updated

TICKET_PATTERN = r"^(?![0-9]{9,}\Z)[A-Za-z0-9_-]{1,64}\Z"
_ticket = msgspec.json.Decoder(Annotated[str, Meta(pattern=TICKET_PATTERN)])

# The facts about a person, which erasing takes away.
DONOR_FIELDS = frozenset({"last_name", "country", "email_hash"})

# Later stages win among states of one second. A won dispute may have been lost before.
DISPUTE_STAGES = (
    "warning_needs_response",
    "warning_under_review",
    "warning_closed",
    "needs_response",
    "under_review",
    "charge_refunded",
    "prevented",
    "lost",
    "won",
)


class NotAnEvent(Exception):
    """Signed bytes that are no Stripe event."""


class CannotApply(Exception):
    """An event of a handled type in a shape we do not know. The message names places and types, never values."""

    def __init__(self, event: "StripeEvent", reason: str) -> None:
        super().__init__(reason)
        self.event = event
        self.reason = reason


class StripeEvent(Struct, frozen=True):
    """An event, reduced: what is recorded of it, and the facts it states.

    `facts` is None where it changes nothing; then `reason` says why.
    """

    id: str
    type: str
    created: int
    livemode: bool
    facts: Facts | None
    reason: str | None = None


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
    metadata: _Metadata | None = None
    billing_details: Raw = NULL


class _Charges(Struct):
    data: list[_Charge] = []


class _PaymentIntent(Struct):
    id: Id
    amount: Minor | None = None
    amount_received: Minor | None = None
    created: Seconds | None = None
    currency: Currency | None = None
    status: str | None = None
    latest_charge: Id | _Charge | None = None
    charges: _Charges | None = None
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
    client_reference_id: Raw = NULL
    metadata: _Metadata | None = None
    customer_details: Raw = NULL


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
    """Collects the facts of one event: everything it says was so at the event's `created`."""

    def __init__(self, event: _Envelope, hash_key: bytes | None) -> None:
        self.type = event.type
        self.at = event.created
        self.account = event.account
        self.hash_key = hash_key
        self.facts: Facts = {}
        self.family_of: dict[str, str] = {}

    def name(self, family: str, id_: str) -> dict[str, Fact]:
        """The facts of one object; naming it is enough to tie its id to this donation.

        Raises _Unknown for an id that this event gives to objects of two families.
        """
        if self.family_of.setdefault(id_, family) != family:
            raise _Unknown("one id names two objects - at `$.id`")
        return self.facts.setdefault(family, {}).setdefault(id_, {"seen": self.at})

    def tell(self, family: str, id_: str, **newest: object) -> dict[str, Fact]:
        """States facts whose newest value stands; None and empty never count."""
        known = self.name(family, id_)
        known.update({field: [self.at, value] for field, value in newest.items() if value not in (None, "")})
        if self.account:
            known["account"] = [self.at, self.account]
        return known

    def link(self, family: str, reference: Reference) -> str | None:
        """The id that an expandable field names, tied to this donation."""
        id_ = reference.id if isinstance(reference, _Named) else reference
        if id_:
            self.name(family, id_)
        return id_ or None


def read(body: bytes, *, livemode: bool, hash_key: bytes | None) -> StripeEvent:
    """Reduces the raw body of a webhook.

    Args:
        body: JSON, already known to be signed.
        livemode: the mode whose events make donations.
        hash_key: the key of e-mail hashes, or None.

    Raises:
        NotAnEvent: it is no Stripe event at all.
        CannotApply: a handled type in an unexpected shape.
    """
    try:
        envelope = _envelope.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _read_thin(body)
    if envelope.object != "event":
        raise NotAnEvent("the object is not an event")
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
    return _unapplied(envelope, reason) if reason else _event(envelope, statement.facts)


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


def _event(event: _Envelope, facts: Facts) -> StripeEvent:
    return StripeEvent(event.id, event.type, event.created, event.livemode, facts)


class _Unknown(ValueError):
    """A value we cannot interpret; the message does not repeat it."""


def _ticket_of(metadata: _Metadata | None) -> str | None:
    return _ticket_id(metadata.ticket) if metadata else None


def _ticket_id(raw: Raw) -> str | None:
    """A ticket id, or None for anything that can't be one: free text may hold a person's details and is not kept."""
    try:
        ticket: str = _ticket.decode(raw)
    except msgspec.MsgspecError:
        return None
    return ticket


def _upper(currency: str | None) -> str | None:
    return currency.upper() if currency else None


def _payment_intent(statement: _Statement, raw: Raw) -> None:
    intent = msgspec.json.decode(raw, type=_PaymentIntent)
    known = statement.tell(
        "pi",
        intent.id,
        amount=intent.amount or None,
        received=intent.amount_received or None,
        created=intent.created,
        currency=_upper(intent.currency),
        ticket=_ticket_of(intent.metadata),
        email_hash=privacy.reduce_email(intent.receipt_email, statement.hash_key),
    )
    if statement.type == "payment_intent.succeeded":
        known["paid"] = statement.at
    if statement.type == "payment_intent.payment_failed":
        known["failed"] = statement.at
    if "canceled" in (statement.type.rpartition(".")[2], intent.status):
        known["canceled"] = statement.at
    charges = intent.charges.data if intent.charges else []
    if isinstance(intent.latest_charge, _Charge):
        charges = [*charges, intent.latest_charge]
    elif intent.latest_charge:
        statement.name("ch", intent.latest_charge)["payment_intent"] = [statement.at, intent.id]
    for charge in charges:
        _tell_charge(statement, charge, intent.id)


def _charge(statement: _Statement, raw: Raw) -> None:
    charge = msgspec.json.decode(raw, type=_Charge)
    known = _tell_charge(statement, charge, None)
    took_money = "captured" in known
    if took_money and statement.type in ("charge.succeeded", "charge.captured"):
        known["paid"] = statement.at
    if statement.type == "charge.failed":
        known["failed"] = statement.at
    taken = known.get("taken")
    never_taken = (charge.amount or 0) - (taken[1] if isinstance(taken, list) else 0)
    if statement.type == "charge.refunded" and (charge.amount_refunded or 0) > never_taken:
        known["refund_seen"] = statement.at


def _tell_charge(statement: _Statement, charge: _Charge, payment_intent: str | None) -> dict[str, Fact]:
    """A charge, wherever it was found. It took money by its own word, whatever the event's type."""
    donor = privacy.reduce_details(charge.billing_details, statement.hash_key)
    took_money = bool(charge.paid and charge.captured and charge.status == "succeeded")
    taken = charge.amount if took_money and charge.amount_captured is None else charge.amount_captured
    known = statement.tell(
        "ch",
        charge.id,
        payment_intent=statement.link("pi", charge.payment_intent) or payment_intent,
        amount=charge.amount or None,
        taken=taken or None,
        returned=charge.amount_refunded,
        created=charge.created,
        currency=_upper(charge.currency),
        ticket=_ticket_of(charge.metadata),
        last_name=donor.last_name,
        country=donor.country,
        email_hash=donor.email_hash,
    )
    if took_money:
        known["captured"] = statement.at
    if charge.status == "failed":
        known["failed"] = statement.at
    return known


def _session(statement: _Statement, raw: Raw) -> str | None:
    session = msgspec.json.decode(raw, type=_Session)
    if session.mode not in (None, "payment"):
        return "a session of this mode is no donation"
    donor = privacy.reduce_details(session.customer_details, statement.hash_key)
    known = statement.tell(
        "cs",
        session.id,
        payment_intent=statement.link("pi", session.payment_intent),
        amount=session.amount_total or None,
        created=session.created,
        currency=_upper(session.currency),
        ticket=_ticket_of(session.metadata),
        reference=_ticket_id(session.client_reference_id),
        last_name=donor.last_name,
        country=donor.country,
        email_hash=donor.email_hash,
    )
    if session.payment_status == "paid":
        known["paid"] = statement.at
    if "expired" in (statement.type.rpartition(".")[2], session.status):
        known["expired"] = statement.at
    if statement.type == "checkout.session.async_payment_failed":
        known["failed"] = statement.at
    return None


def _refund(statement: _Statement, raw: Raw) -> None:
    refund = msgspec.json.decode(raw, type=_Refund)
    intent, charge = _owners(statement, refund)
    known = statement.tell(
        "re",
        refund.id,
        payment_intent=intent,
        charge=charge,
        amount=refund.amount or None,
        created=refund.created,
        currency=_upper(refund.currency),
    )
    if refund.status in ("failed", "canceled"):
        known["failed"] = statement.at


def _dispute(statement: _Statement, raw: Raw) -> None:
    dispute = msgspec.json.decode(raw, type=_Dispute)
    if dispute.status not in DISPUTE_STAGES:
        raise _Unknown("an unknown dispute status - at `$.status`")
    intent, charge = _owners(statement, dispute)
    statement.tell(
        "dp",
        dispute.id,
        payment_intent=intent,
        charge=charge,
        state=[DISPUTE_STAGES.index(dispute.status), dispute.amount],
        currency=_upper(dispute.currency),
    )


def _owners(statement: _Statement, child: _Refund | _Dispute) -> tuple[str | None, str | None]:
    """The PaymentIntent and the charge that a refund or dispute names; the two are tied by its word as well."""
    intent = statement.link("pi", child.payment_intent)
    charge = statement.link("ch", child.charge)
    if intent is None and charge is None:
        raise _Unknown("neither a PaymentIntent nor a charge is named - at `$.charge`")
    if intent and charge:
        statement.name("ch", charge)["payment_intent"] = [statement.at, intent]
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
}

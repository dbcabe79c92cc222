"""Pure: what Checkout Sessions state."""

import msgspec
from msgspec import Raw, Struct

from daemon.ledger.events.event_facts import EventFacts, Handler, subscription_key
from daemon.ledger.events.fields import (
    NULL,
    Currency,
    Id,
    Metadata,
    Minor,
    Reference,
    Seconds,
    id_of,
    ticket_id,
    ticket_of,
    upper,
)
from daemon.ledger.facts import FactName, Family

# The custom field of a Checkout Session that asks for consent; Stripe takes keys of letters and digits only.
SHOW_NAME_KEY, SHOW_NAME_YES = "showName", "yes"


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
    metadata: Metadata | None = None
    customer_details: Raw = NULL
    custom_fields: Raw = NULL


class _Dropdown(Struct):
    value: str | None = None


class _CustomField(Struct):
    key: str
    dropdown: _Dropdown | None = None


_custom_fields = msgspec.json.Decoder(list[_CustomField])


def _session(event: EventFacts, raw: Raw) -> str | None:
    session = msgspec.json.decode(raw, type=_Session)
    if session.mode == "subscription":
        return _add_to_subscription(event, session)
    if session.mode not in (None, "payment"):
        return "a session of this mode is no donation"
    donor = event.reduce_donor(session.customer_details)
    known = event.add(
        Family.SESSION,
        session.id,
        {
            FactName.PAYMENT_INTENT: event.link(Family.PAYMENT_INTENT, session.payment_intent),
            FactName.AMOUNT: session.amount_total or None,
            FactName.CREATED: session.created,
            FactName.CURRENCY: upper(session.currency),
            FactName.TICKET: ticket_of(session.metadata),
            FactName.REFERENCE: ticket_id(session.client_reference_id),
            FactName.SHOW_NAME: _shows_name(session.custom_fields),
            FactName.LAST_NAME: donor.last_name,
            FactName.COUNTRY: donor.country,
            FactName.EMAIL_HASH: donor.email_hash,
        },
    )
    if session.payment_status == "paid":
        known |= {FactName.PAID: event.at, FactName.PAID_LAST: [event.at, 1]}
    if "expired" in (event.type.rpartition(".")[2], session.status):
        known[FactName.EXPIRED] = event.at
    if event.type == "checkout.session.async_payment_failed":
        known[FactName.FAILED] = event.at
    return None


def _add_to_subscription(event: EventFacts, session: _Session) -> str | None:
    """A session that began a subscription is no donation, but states the subscription's ticket and consent."""
    stated = {
        FactName.SESSION_TICKET: ticket_of(session.metadata),
        FactName.SESSION_REFERENCE: ticket_id(session.client_reference_id),
        FactName.SESSION_SHOW_NAME: _shows_name(session.custom_fields),
    }
    subscription = id_of(session.subscription)
    if not subscription or all(each is None for each in stated.values()):
        return "this session of a subscription names no ticket and no consent"
    event.add(Family.SUBSCRIPTION, subscription_key(subscription), stated)
    return None


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


HANDLERS: dict[str, Handler] = {
    f"checkout.session.{name}": _session
    for name in ("completed", "async_payment_succeeded", "async_payment_failed", "expired")
}

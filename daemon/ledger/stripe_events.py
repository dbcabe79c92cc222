"""Pure: one Stripe event -> the facts that it states (facts.py).

The modules of `events` know the objects in it. Nothing here depends on what came before.
"""

import re
from typing import Annotated

import msgspec
from msgspec import Meta, Raw, Struct

from daemon.ledger.events import invoices, payments, reversals, sessions
from daemon.ledger.events.event_facts import Attempt, EventFacts, Handler, UnknownValue
from daemon.ledger.events.fields import Id, Seconds
from daemon.ledger.facts import Facts

HANDLERS: dict[str, Handler] = {
    **sessions.HANDLERS,
    **payments.HANDLERS,
    **reversals.HANDLERS,
    **invoices.HANDLERS,
}

Label = Annotated[str, Meta(pattern=r"^[a-z0-9_.]{1,100}\Z")]
ThinLabel = Annotated[str, Meta(pattern=r"^[a-z0-9_.\[\]]{1,100}\Z")]  # v2.core.account[requirements].updated

# One escape of a JSON string: a surrogate pair, a surrogate without its other half, or anything else.
_PAIR = rb"u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_ESCAPE = re.compile(rb"\\(?:" + _PAIR + rb"|(?P<lone>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL)


class NotAnEvent(Exception):
    """Signed bytes that are no Stripe event."""


class CannotApply(Exception):
    """An event of a handled type in an unknown shape. The message names places and types, never values."""

    def __init__(self, event: "StripeEvent", reason: str) -> None:
        super().__init__(reason)
        self.event = event
        self.reason = reason


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
    facts = EventFacts(envelope.type, envelope.created, envelope.account, hash_key)
    try:
        reason = handler(facts, envelope.data.object)
    except UnicodeDecodeError:  # its own text names the byte
        raise CannotApply(_unapplied(envelope, ""), "a text is not UTF-8") from None
    except (msgspec.MsgspecError, RecursionError, UnknownValue) as error:
        raise CannotApply(_unapplied(envelope, ""), str(error)[:500]) from None
    return _unapplied(envelope, reason) if reason else _event(envelope, facts)


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


def _event(event: _Envelope, stated: EventFacts) -> StripeEvent:
    return StripeEvent(
        event.id,
        event.type,
        event.created,
        event.livemode,
        stated.facts,
        unknown_status=stated.unknown_status,
        attempt=stated.attempt,
    )

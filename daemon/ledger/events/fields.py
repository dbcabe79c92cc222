"""Pure: the fields that Stripe's objects have in common, and what may be kept of them."""

import re
from typing import Annotated

import msgspec
from msgspec import Meta, Raw, Struct

from daemon.ledger.facts import ID_PATTERN, TICKET_PATTERN

NULL = Raw(b"null")
STATUS_PATTERN = re.compile(r"[a-z0-9_]{1,64}")  # what may be kept of an unknown status

Id = Annotated[str, Meta(pattern=ID_PATTERN)]
Minor = Annotated[int, Meta(ge=0, le=10**15)]  # Stripe's amounts have 12 digits at most
Seconds = Annotated[int, Meta(ge=0, le=253_402_300_799)]  # until the year 9999, where timestamps end
Currency = Annotated[str, Meta(pattern=r"^[A-Za-z]{3}\Z")]

_ticket = msgspec.json.Decoder(Annotated[str, Meta(pattern=TICKET_PATTERN)])


class Named(Struct):
    """An object of which only the id is read."""

    id: Id


Reference = Id | Named | None  # Stripe's expandable fields: an id, or the object itself


class Metadata(Struct):
    """What a site has added to an object."""

    ticket: Raw = msgspec.field(name="ticketId", default=NULL)


def id_of(reference: Reference) -> str | None:
    """The id that an expandable field names."""
    return reference.id if isinstance(reference, Named) else reference


def ticket_of(metadata: Metadata | None) -> str | None:
    """The ticket that a site has named."""
    return ticket_id(metadata.ticket) if metadata else None


def ticket_id(raw: Raw) -> str | None:
    """A ticket id, or None for anything that can't be one: free text may hold a person's details and is not kept."""
    try:
        ticket: str = _ticket.decode(raw)
    except msgspec.MsgspecError:
        return None
    return ticket


def upper(currency: str | None) -> str | None:
    """A currency as it is stored."""
    return currency.upper() if currency else None

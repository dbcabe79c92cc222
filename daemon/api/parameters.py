"""The types of the operator API's parameters and amounts, and the pages of its lists.

A description completes the sentence "status: …" of an error.

Patterns are those of JSON Schema (ECMA 262), in which `$` is the end of the text; in Python it would also match before
a line feed at the end, and texts with control characters are rejected before.
"""

import base64
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Annotated, TypeVar

from aiohttp import web
from msgspec import Meta, UnsetType

from daemon.ledger import money

PAGE = 100
PAGE_LIMIT = 1000
Row = TypeVar("Row")

TicketId = Annotated[
    str,
    Meta(
        pattern="^(?![0-9]{9,}$)[A-Za-z0-9_-]{1,64}$",
        description="a ticket id has 1 to 64 letters, digits, dashes and underscores, and no more than 8 if all are "
        "digits",
    ),
]
DonationId = Annotated[
    str,
    Meta(
        pattern="^[A-Za-z0-9_]{1,255}$",
        description="the id of one of the donation's objects at Stripe, such as pi_3PqXb2Lkd",
    ),
]
EventId = Annotated[str, Meta(pattern="^[A-Za-z0-9_]{1,255}$", description="the id of an event, such as evt_1PqXb2Lkd")]
Currency = Annotated[str, Meta(pattern="^[A-Z]{3}$", description="three capital letters, such as USD")]
Limit = Annotated[int, Meta(ge=1, le=PAGE_LIMIT, description=f"a whole number from 1 to {PAGE_LIMIT}")]
Cursor = Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{1,500}$", description="the nextCursor of the page before")]
Time = Annotated[datetime, Meta(tz=True, description="a time such as 2026-01-31T00:00:00Z")]
Title = Annotated[
    str,
    Meta(
        max_length=200,
        pattern="^[^\\x00-\\x1f\\x7f]*$",
        description="at most 200 characters, all of them printable",
    ),
]
Goal = Annotated[
    Decimal,
    Meta(
        extra_json_schema={"exclusiveMinimum": 0, "exclusiveMaximum": 10**money.DIGITS},
        description="a number above 0 in major units, with at most the decimals of the currency",
    ),
]
# An exact number in major units, with the decimals of its currency.
Amount = Annotated[Decimal, Meta(description="an exact number in major units, with the decimals of its currency")]


def amount(amount_minor: int, currency: str | None) -> Decimal:
    """An amount in major units, as replies have it."""
    return Decimal(money.major(amount_minor, currency or ""))


def opaque(position: str | None) -> str | None:
    """A position in a list as a cursor: opaque to clients, so that it may change."""
    return None if position is None else base64.urlsafe_b64encode(position.encode()).decode().rstrip("=")


def page(rows: Sequence[Row], limit: int, position_of: Callable[[Row], str]) -> tuple[Sequence[Row], str | None]:
    """The rows of a page, and the cursor of the next page; None on the last one.

    Args:
        rows: those from the page's first one on, at least one more than `limit` unless it is the last page.
        position_of: the position of a row in the list.
    """
    return rows[:limit], opaque(position_of(rows[limit - 1])) if len(rows) > limit else None


def position(cursor: str | UnsetType, pattern: re.Pattern[str]) -> re.Match[str] | None:
    """The position that a cursor names; None where none was given. Raises HTTPBadRequest for any other text."""
    if not isinstance(cursor, str):
        return None
    try:
        found = pattern.fullmatch(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii"))
    except ValueError:
        found = None
    if found is None or opaque(found[0]) != cursor:
        raise web.HTTPBadRequest(text="cursor: not one that a nextCursor of this list gave")
    return found

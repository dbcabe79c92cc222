"""Reads a list of Stripe's API from the newest object to the oldest one, so that an interruption loses nothing.

Each page has a position, which is saved when the page has been processed: after an interruption the walk continues
behind that page. New objects appear at the head of a list and move nothing behind a position. An object that appears
late, a little behind the head, would be missed: so when the end is reached, the head is read a second time, down to
OVERLAP_S before the time at which the walk began.
"""

import math
import time
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

import msgspec
from msgspec import Raw, Struct

from daemon.stripe_api.client import Page, Params, StripeApi, StripeRejected

OVERLAP_S = 600  # far more than Stripe's lists have ever been seen to lag


class Position(Struct, frozen=True):
    """How far a list was read.

    Attributes:
        floor: the Unix second; what was created before it is not read.
        cursor: the id of the last object of the last page; None: the next page is the list's first.
        began_at: Stripe's time of the first page; 0 before it.
        is_second: the head is being read again.
        is_done: nothing is left.
    """

    floor: int
    cursor: str | None = None
    began_at: int = 0
    is_second: bool = False
    is_done: bool = False

    def after(self, page: Page) -> "Position":
        """The position behind a page."""
        began_at = self.began_at or page.date
        if page.has_more:
            return msgspec.structs.replace(self, cursor=page.last_id, began_at=began_at)
        if self.is_second:
            return msgspec.structs.replace(self, is_done=True)
        return Position(max(self.floor, began_at - OVERLAP_S), is_second=True)


class WalkedPage(NamedTuple):
    """A page, and the position that is to be saved when it has been processed.

    Attributes:
        read_at: Stripe's time in Unix seconds when the page was asked for: each object's state is not older.
    """

    objects: list[Raw]
    read_at: int
    position: Position


async def walk(
    stripe: StripeApi,
    path: str,
    params: Params,
    position: Position,
    *,
    account: str | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[WalkedPage]:
    """The pages of a list from a position on.

    Raises:
        StripeUnavailable, StripeRejected: as StripeApi.get. The pages that were yielded remain processed.
    """
    while not position.is_done:
        try:
            given = {**params, "created": {"gte": position.floor}}
            pages = stripe.pages(path, given, account=account, starting_after=position.cursor)
            async for walked in _read(pages, position, clock):
                position = walked.position
                yield walked
        except StripeRejected as rejection:
            if position.cursor is None or rejection.param != "starting_after":
                raise
            # The list does not contain this object any more, as an event after 30 days: begin at the list's head again.
            position = msgspec.structs.replace(position, cursor=None)


async def _read(
    pages: AsyncIterator[Page], position: Position, clock: Callable[[], float]
) -> AsyncIterator[WalkedPage]:
    """The pages of one passage through the list."""
    while True:
        asked_s = clock()
        page = await anext(pages, None)
        if page is None:
            return
        position = position.after(page)
        yield WalkedPage(page.objects, page.date - math.ceil(clock() - asked_s), position)

"""Totals and first pages of a ledger on the short path (daemon.runtime.http.short_path), as `tickets` answers them.

A request takes it if it has no parameters and at most one known ETag: the usual question of a site that shows a total.
"""

import asyncio
import re
from functools import lru_cache, partial
from typing import Any

from aiohttp import hdrs

from daemon.api.app import ReadPlaces
from daemon.api.reply_queue import PendingRequest, ReplyQueue
from daemon.api.tickets import PAGE_PATH, TICKET, TOTAL_PATH, Donations, allow_all_sites, page_reply
from daemon.ledger.reader import Page, PageQuery, Totals
from daemon.runtime.http.limits import Places
from daemon.runtime.http.short_path import PreparedReply, ShortHandler, ShortRequest

PREPARED_TOTALS, PREPARED_PAGES = 256, 8  # replies that are kept prepared, of 1 kB and of 30 kB each
LINE = re.compile(rb"GET /api/tickets/([A-Za-z0-9_-]{1,64})/donations(/total)? HTTP/1\.1")
ONE_TAG = re.compile(r'"([0-9a-f]{32})"', re.ASCII)
NO_TAGS: frozenset[str] = frozenset()


class ShortReads:
    """The handlers of totals and first pages on the short path.

    Args:
        has_public_pages: without it pages need a token, and none takes the short path.
    """

    def __init__(
        self, donations: Donations, places: ReadPlaces, replies: ReplyQueue, *, has_public_pages: bool
    ) -> None:
        self._donations = donations
        self._places = places
        self._replies = replies
        self._readiness = replies.parts.readiness
        self._has_public_pages = has_public_pages

    def handler(self, line: bytes) -> ShortHandler | None:
        """The handler of a request line; None if such a request does not take the short path."""
        found = LINE.fullmatch(line)
        if found is None or not TICKET.fullmatch(ticket := found[1].decode()):
            return None
        if found[2]:
            return partial(self._read_total, ticket)
        return partial(self._read_page, self._donations.first_page(ticket)) if self._has_public_pages else None

    def _read_total(self, ticket: str, request: ShortRequest) -> bool:
        tags = _known_tags(request)
        if tags is None or not self._readiness.ready or self._places.totals.is_full:
            return False
        read = PendingRequest(
            request, TOTAL_PATH, lambda totals, _took_s: _total_reply(self._donations, ticket, tags, totals)
        )
        self._begin(read, self._places.totals, self._donations.read_totals(ticket))
        return True

    def _read_page(self, query: PageQuery, request: ShortRequest) -> bool:
        tags = _known_tags(request)
        if tags is None or not self._readiness.ready or self._places.pages.is_full:
            return False
        read = PendingRequest(request, PAGE_PATH, lambda page, _took_s: _page_reply(query, tags, page))
        self._begin(read, self._places.pages, self._donations.read_page(query, tags))
        return True

    def _begin(self, read: PendingRequest, places: Places, found: "asyncio.Future[Any]") -> None:
        places.take()  # one is free
        self._replies.add(read)
        found.add_done_callback(partial(self._found, read, places))

    def _found(self, read: PendingRequest, places: Places, found: "asyncio.Future[Any]") -> None:
        places.release()
        self._replies.finish(read, found.exception() or found.result())


def _known_tags(request: ShortRequest) -> frozenset[str] | None:
    """The ETag that the client has, if any; None where that is not so simple."""
    headers = request.headers.getall(hdrs.IF_NONE_MATCH, ())
    if not headers:
        return NO_TAGS
    tag = ONE_TAG.fullmatch(headers[0]) if len(headers) == 1 else None
    return frozenset((tag[1],)) if tag else None


@lru_cache(maxsize=PREPARED_TOTALS)
def _total_reply(donations: Donations, ticket: str, tags: frozenset[str], totals: Totals | None) -> PreparedReply:
    reply = donations.total_reply(ticket, tags, totals)
    allow_all_sites(reply)
    return PreparedReply.of(reply)


@lru_cache(maxsize=PREPARED_PAGES)
def _page_reply(query: PageQuery, tags: frozenset[str], page: Page | None) -> PreparedReply:
    return PreparedReply.of(page_reply(query, tags, page))

"""Totals and first pages of a ledger on the short path (daemon.runtime.http.short_path), as `tickets` answers them.

A request takes it if it has no parameters and at most one known ETag: the usual question of a site that shows a total.
"""

import asyncio
import re
import time
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

from aiohttp import hdrs, web

from daemon.api.app import ReadPlaces
from daemon.api.error_replies import ErrorReplies
from daemon.api.metrics import ApiMetrics
from daemon.api.request_context import new_log_context
from daemon.api.tickets import PAGE_PATH, TICKET, TOTAL_PATH, Donations, page_reply
from daemon.ledger.reader import Page, PageQuery, Totals
from daemon.runtime.http.limits import Places
from daemon.runtime.http.short_path import PreparedReply, ShortHandler, ShortRequest
from daemon.runtime.readiness import ReadinessClient

WATCH_S = 0.25  # a read exceeds its deadline by at most so much
PREPARED_TOTALS, PREPARED_PAGES = 256, 8  # replies that are kept prepared, of 1 kB and of 30 kB each
LINE = re.compile(rb"GET /api/tickets/([A-Za-z0-9_-]{1,64})/donations(/total)? HTTP/1\.1")
ONE_TAG = re.compile(r'"([0-9a-f]{32})"', re.ASCII)
NO_TAGS: frozenset[str] = frozenset()


class _Read(NamedTuple):
    """A request whose rows are being read. `reply` makes the reply of them."""

    request: ShortRequest
    route: str
    began_s: float
    reply: Callable[[object], PreparedReply]


class ShortReads:
    """The handlers of totals and first pages on the short path.

    Args:
        has_public_pages: without it pages need a token, and none takes the short path.
        deadline_s: the time that one request may take in total.
        draining: once set, each reply closes its connection.
    """

    def __init__(
        self,
        donations: Donations,
        places: ReadPlaces,
        *,
        has_public_pages: bool,
        readiness: ReadinessClient,
        metrics: ApiMetrics,
        errors: ErrorReplies,
        draining: asyncio.Event,
        deadline_s: float,
    ) -> None:
        self.donations = donations
        self.places = places
        self._has_public_pages = has_public_pages
        self._readiness = readiness
        self._metrics = metrics
        self._errors = errors
        self._draining = draining
        self._deadline_s = deadline_s
        self._reads: dict[_Read, None] = {}  # the earliest first
        self._finished: list[tuple[_Read, object]] = []  # they have no reply yet

    def handler(self, line: bytes) -> ShortHandler | None:
        """The handler of a request line; None if such a request does not take the short path."""
        found = LINE.fullmatch(line)
        if found is None or not TICKET.fullmatch(ticket := found[1].decode()):
            return None
        if found[2]:
            return partial(self._read_total, ticket)
        return partial(self._read_page, self.donations.first_page(ticket)) if self._has_public_pages else None

    async def watch_deadline(self) -> None:
        """End the reads that take too long. Never returns."""
        while True:
            await asyncio.sleep(WATCH_S)
            latest_s = time.perf_counter() - self._deadline_s
            for read in list(self._reads):
                if read.began_s > latest_s:
                    break
                self._finish(read, TimeoutError())

    def _read_total(self, ticket: str, request: ShortRequest) -> bool:
        tags = _known_tags(request)
        if tags is None or not self._readiness.ready or self.places.totals.is_full:
            return False
        reply = partial(_total_reply, self.donations, ticket, tags)
        read = _Read(request, TOTAL_PATH, time.perf_counter(), reply)
        self._begin(read, self.places.totals, self.donations.read_totals(ticket))
        return True

    def _read_page(self, query: PageQuery, request: ShortRequest) -> bool:
        tags = _known_tags(request)
        if tags is None or not self._readiness.ready or self.places.pages.is_full:
            return False
        read = _Read(request, PAGE_PATH, time.perf_counter(), partial(_page_reply, query, tags))
        self._begin(read, self.places.pages, self.donations.read_page(query, tags))
        return True

    def _begin(self, read: _Read, places: Places, found: "asyncio.Future[Any]") -> None:
        places.take()  # one is free
        self._reads[read] = None
        found.add_done_callback(partial(self._found, read, places))

    def _found(self, read: _Read, places: Places, found: "asyncio.Future[Any]") -> None:
        places.release()
        self._finish(read, found.exception() or found.result())

    def _finish(self, read: _Read, result: object) -> None:
        if read not in self._reads:  # its time was over
            return
        del self._reads[read]
        if not self._finished:
            asyncio.get_running_loop().call_soon(self._send)
        self._finished.append((read, result))

    def _send(self) -> None:
        """Send the replies of this iteration of the event loop, after they have been counted together."""
        finished, self._finished = self._finished, []
        now_s, close = time.perf_counter(), self._draining.is_set()
        replies = [(read.request, self._reply(read, result)) for read, result in finished]
        with self._metrics.written_together():
            for (read, _), (_, reply) in zip(finished, replies, strict=True):
                self._metrics.request_answered(read.route, "GET", reply.status, now_s - read.began_s)
        for request, reply in replies:
            request.answer(reply, close=close)

    def _reply(self, read: _Read, result: object) -> PreparedReply:
        try:
            if isinstance(result, BaseException):
                raise result
            return read.reply(result)
        except Exception as error:
            reply = self._errors.reply(error, read.route, new_log_context)
            return PreparedReply.of(_for_all_sites(reply) if read.route == TOTAL_PATH else reply)


def _known_tags(request: ShortRequest) -> frozenset[str] | None:
    """The ETag that the client has, if any; None where that is not so simple."""
    headers = request.headers.getall(hdrs.IF_NONE_MATCH, ())
    if not headers:
        return NO_TAGS
    tag = ONE_TAG.fullmatch(headers[0]) if len(headers) == 1 else None
    return frozenset((tag[1],)) if tag else None


@lru_cache(maxsize=PREPARED_TOTALS)
def _total_reply(donations: Donations, ticket: str, tags: frozenset[str], totals: Totals | None) -> PreparedReply:
    return PreparedReply.of(_for_all_sites(donations.total_reply(ticket, tags, totals)))


@lru_cache(maxsize=PREPARED_PAGES)
def _page_reply(query: PageQuery, tags: frozenset[str], page: Page | None) -> PreparedReply:
    return PreparedReply.of(page_reply(query, tags, page))


def _for_all_sites(reply: web.Response) -> web.Response:
    """Also of an error: otherwise a browser hides it from the page."""
    reply.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = "*"
    return reply

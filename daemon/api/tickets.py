"""The two GET replies: rows of the ledger -> JSON (SPEC 5)."""

import asyncio
import base64
import re
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

import msgspec
from aiohttp import hdrs, web

from daemon.api.endpoints import LEDGER_SEQ
from daemon.api.parameters import opaque
from daemon.ledger import money
from daemon.ledger.donation import DonationRow, Status
from daemon.ledger.facts import TICKET_PATTERN
from daemon.ledger.reader import Cursor, Figures, LastDonation, Ledger, Moment, Page, PageQuery, TicketFigures, Totals
from daemon.reports.entry_sums import MomentInFuture, find_moment
from daemon.runtime.http.auth import OperatorAuthentication, Scope
from sql.database import Database

PAGE = 100
PAGE_LIMIT = 1000
PAGE_PATH = "/api/tickets/{id}/donations"
TOTAL_PATH = f"{PAGE_PATH}/total"
ALL_SITES = {hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: "*", hdrs.ACCESS_CONTROL_EXPOSE_HEADERS: LEDGER_SEQ}
TOTAL_HEADERS = {"Cache-Control": "max-age=5"}
TICKET = re.compile(TICKET_PATTERN)
FINGERPRINT = re.compile(r"[0-9a-f]{16}", re.ASCII)
RENDERED_TOTALS = 1024  # replies that are kept, of 1 kB each
KNOWN_QUERIES = 1024  # whose half of a tag is kept


class Donations:
    """The handlers of a ticket's ledger and totals.

    Args:
        default_currency: of tickets that name none.
        operators: who may read totals as they were known at an earlier moment.
        primary: where these are read: a replica does not know yet which moments have passed.
    """

    def __init__(
        self,
        ledger: Ledger,
        default_currency: str,
        operators: OperatorAuthentication | None = None,
        primary: Database | None = None,
    ) -> None:
        self._ledger = ledger
        self._default_currency = default_currency
        self._primary = primary
        self._operators_total_as_of = (operators or OperatorAuthentication(())).require(Scope.READ, self._total_as_of)

    async def page(self, request: web.Request) -> web.Response:
        """`GET /api/tickets/{id}/donations?limit=&cursor=&status=&currency=`"""
        parameters = _query(request, "limit", "cursor", "status", "currency")
        query = PageQuery(
            ticket_id(request),
            _limit(parameters.get("limit")),
            self._default_currency,
            _status(parameters.get("status")),
            _currency(parameters.get("currency")),
            _cursor(parameters.get("cursor")),
        )
        known_tags = _known_tags(request)
        return page_reply(query, known_tags, await self.read_page(query, known_tags))

    def first_page(self, ticket: str) -> PageQuery:
        """The query of a page without parameters."""
        return PageQuery(ticket, PAGE, self._default_currency)

    def read_page(self, query: PageQuery, known_tags: frozenset[str]) -> "asyncio.Future[Page | None]":
        """The page; of one that the client has, there are no donations."""
        known = _page_tags(query).fingerprints(known_tags)
        return self._ledger.page(replace(query, known=known) if known else query)

    async def total(self, request: web.Request) -> web.StreamResponse:
        """`GET /api/tickets/{id}/donations/total?currency=`; with `asOf=` for operators"""
        if "asOf" in request.query:
            return await self._operators_total_as_of(request)
        wanted = _currency(_query(request, "currency").get("currency"))
        ticket = ticket_id(request)
        return self.total_reply(ticket, _known_tags(request), await self.read_totals(ticket), wanted)

    def read_totals(self, ticket: str) -> "asyncio.Future[Totals | None]":
        """The ticket's totals."""
        return self._ledger.totals(ticket)

    def total_reply(
        self, ticket: str, known_tags: frozenset[str], totals: Totals | None, currency: str | None = None
    ) -> web.Response:
        """The reply with the totals that were read, to a client that has replies with these tags.

        Raises HTTPNotFound for an unknown ticket.
        """
        if totals is None or totals.is_hidden:
            raise _unknown(ticket)
        body, tag = _total_body(totals.ticket, currency or totals.ticket.currency or self._default_currency)
        headers = {**TOTAL_HEADERS, LEDGER_SEQ: str(totals.ledger_seq)}
        return _not_modified(tag, headers) if _is_known(tag, known_tags) else _reply(body, tag, headers)

    async def _total_as_of(self, request: web.Request) -> web.Response:
        """The amounts as the journal's entries add up to at an earlier moment; it does not count donations."""
        query = _query(request, "asOf", "currency")
        moment, wanted = _moment(query["asOf"]), _currency(query.get("currency"))
        ticket = ticket_id(request)
        assert self._primary is not None  # noqa: S101 - given with the operators
        try:
            found = await find_moment(self._primary, moment)
        except MomentInFuture as problem:
            raise web.HTTPBadRequest(text=f"asOf: {problem}") from None
        rows = await Ledger(self._primary).totals_as_of(ticket, found.seq)
        if not rows:
            raise _unknown(ticket)
        top = wanted or rows[0].ticket_currency or self._default_currency
        by_currency = {row.currency: _amounts(row.currency, row.figures) for row in rows if row.currency}
        body = msgspec.json.encode(
            {
                "success": True,
                "asOf": {"seq": found.seq, "recordedAt": found.recorded_at and found.recorded_at.astimezone(UTC)},
                **by_currency.get(top, _amounts(top, Figures())),
                "byCurrency": by_currency,
            }
        )
        tag, headers = _tag(body), {LEDGER_SEQ: str(found.seq)}
        return _not_modified(tag, headers) if _is_known(tag, _known_tags(request)) else _reply(body, tag, headers)


def page_reply(query: PageQuery, known_tags: frozenset[str], page: Page | None) -> web.Response:
    """The reply with the page that was read, to a client that has replies with these tags.

    Raises HTTPNotFound for an unknown ticket.
    """
    if page is None or page.is_hidden:
        raise _unknown(query.ticket)
    tag, headers = _page_tags(query).tag(page.fingerprint), {LEDGER_SEQ: str(page.ledger_seq)}
    return (
        _not_modified(tag, headers)
        if _is_known(tag, known_tags)
        else _reply(_page_body(query.ticket, page), tag, headers)
    )


def allow_all_sites(reply: web.StreamResponse) -> None:
    """Let pages of every site read a reply, and its LEDGER_SEQ, which a browser hides as it hides most headers. Errors
    need this too: otherwise a browser hides them from the page."""
    reply.headers.update(ALL_SITES)


class _Rendered(NamedTuple):
    """A reply's body and its ETag."""

    body: bytes
    tag: str


@lru_cache(maxsize=RENDERED_TOTALS)
def _total_body(ticket: TicketFigures, currency: str) -> _Rendered:
    """The totals with those of one currency at the top."""
    by_currency = {name: _figures(name, figures) for name, figures in ticket.by_currency}
    body = msgspec.json.encode(
        {
            "success": True,
            **by_currency.get(currency, _figures(currency, Figures())),
            "lastDonation": ticket.last_donation and _last_donation(ticket.last_donation, default_currency=currency),
            "byCurrency": by_currency,
        }
    )
    return _Rendered(body, _tag(body))


def _page_body(ticket: str, page: Page) -> bytes:
    return msgspec.json.encode(
        {
            "success": True,
            "count": len(page.rows),
            "ticketId": ticket,
            "donations": msgspec.Raw(page.json),
            "nextCursor": page.next and opaque(str(page.next)),
        }
    )


class _PageTags:
    """The ETags of what one query may find: half of a tag is of the query, half is the page's fingerprint."""

    def __init__(self, query: PageQuery) -> None:
        self._of_query = blake2b(RENDERING + repr(query).encode(), digest_size=8).hexdigest()

    def tag(self, fingerprint: int) -> str:
        """The tag of the page with this fingerprint, a signed number of 64 bits."""
        return self._of_query + fingerprint.to_bytes(8, signed=True).hex()

    def fingerprints(self, tags: frozenset[str]) -> frozenset[int]:
        """The fingerprints of those tags that are of this query."""
        mine = (tag[16:] for tag in tags if tag.startswith(self._of_query) and FINGERPRINT.fullmatch(tag[16:]))
        return frozenset(int.from_bytes(bytes.fromhex(half), signed=True) for half in mine)


_page_tags = lru_cache(maxsize=KNOWN_QUERIES)(_PageTags)


def _tag(body: bytes) -> str:
    return blake2b(body, digest_size=16).hexdigest()


def _known_tags(request: web.Request) -> frozenset[str]:
    """The ETags that the client has (RFC 9110, section 13.1.2)."""
    return frozenset(tag.value for tag in request.if_none_match or ())


def _is_known(tag: str, known_tags: frozenset[str]) -> bool:
    return tag in known_tags or "*" in known_tags


def _not_modified(tag: str, headers: dict[str, str]) -> web.Response:
    return web.Response(status=304, headers={**headers, hdrs.ETAG: f'"{tag}"'})


def _reply(body: bytes, tag: str, headers: dict[str, str]) -> web.Response:
    return web.Response(body=body, content_type="application/json", headers={**headers, hdrs.ETAG: f'"{tag}"'})


def _number(amount_minor: int | None, currency: str) -> msgspec.Raw:
    """An exact JSON number in major units. An amount that is not known yet is 0."""
    return msgspec.Raw(money.major(amount_minor or 0, currency).encode())


def _time(moment: datetime) -> str:
    """RFC 3339 in UTC, whole seconds as Stripe sends them."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _amounts(currency: str, figures: Figures) -> dict[str, object]:
    """The JSON of one currency's amounts."""
    net = _number(figures.net_minor, currency)
    return {
        "total": net,
        "currency": currency,
        "breakdown": {
            "paid": _number(figures.paid_minor, currency),
            "refunded": _number(figures.refunded_minor, currency),
            "disputed": _number(figures.disputed_minor, currency),
            "net": net,
        },
    }


def _figures(currency: str, figures: Figures) -> dict[str, object]:
    """The JSON of one currency's figures."""
    return {
        **_amounts(currency, figures),
        "counts": {
            "paid": figures.paid,
            "refunded": figures.refunded,
            "disputed": figures.disputed,
            "partiallyRefunded": figures.partially_refunded,
            "total": figures.donations,
        },
    }


def _last_donation(last: LastDonation, *, default_currency: str) -> dict[str, object]:
    currency = last.currency or default_currency
    return {
        "paidAt": _time(last.paid_at),
        "amount": _number(last.amount_minor, currency),
        "currency": currency,
        "donor": last.donor or "Anonymous",
    }


def _query(request: web.Request, *allowed: str) -> dict[str, str]:
    """The query's parameters; one that is unknown or repeated is answered 400."""
    for name in request.query:
        if name not in allowed:
            raise web.HTTPBadRequest(text=f"unknown parameter (there are: {', '.join(allowed)})")
        if len(request.query.getall(name)) > 1:
            raise web.HTTPBadRequest(text=f"{name}: given more than once")
    return dict(request.query)


def ticket_id(request: web.Request) -> str:
    """The ticket in the path. Raises HTTPBadRequest for a text that cannot be one."""
    ticket = request.match_info["id"]
    if not TICKET.fullmatch(ticket):
        raise web.HTTPBadRequest(
            text="id: a ticket id has 1 to 64 letters, digits, dashes and underscores, and "
            "no more than 8 if all are digits"
        )
    return ticket


def _unknown(ticket: str) -> web.HTTPNotFound:
    return web.HTTPNotFound(text=f"there is no ticket {ticket}")


def is_large_page(request: web.Request) -> bool:
    """Whether a request for a page may be for more donations than a page has without `limit`."""
    limit = request.query.get("limit", "")
    return limit.isascii() and limit.isdigit() and len(limit) <= 4 and int(limit) > PAGE


def _limit(text: str | None) -> int:
    if text is None:
        return PAGE
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= PAGE_LIMIT):
        raise web.HTTPBadRequest(text=f"limit: a whole number from 1 to {PAGE_LIMIT}")
    return int(text)


def _status(text: str | None) -> Status | None:
    if text is None:
        return None
    try:
        return Status(text)
    except ValueError:
        raise web.HTTPBadRequest(text=f"status: one of {', '.join(Status)}") from None


def _currency(text: str | None) -> str | None:
    if text is None:
        return None
    if not money.CURRENCY.fullmatch(text.upper()):
        raise web.HTTPBadRequest(text="currency: three letters, such as USD")
    return text.upper()


def _moment(text: str) -> Moment:
    try:
        return Moment.parse(text)
    except ValueError:
        raise web.HTTPBadRequest(text="asOf: an entry's number, or a time such as 2026-01-31T00:00:00Z") from None


def _cursor(text: str | None) -> Cursor | None:
    if text is None:
        return None
    try:
        return Cursor.parse(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("ascii"))
    except ValueError:
        raise web.HTTPBadRequest(text="cursor: not one that a nextCursor gave") from None


# A page is recognised by its fingerprint before it is rendered. So its tag depends on how this release renders too: on
# what it makes of a donation of which everything is known, and of one of which nothing is.
RENDERING = _page_body(
    "ticket",
    Page(
        ledger_seq=0,
        is_hidden=False,
        fingerprint=0,
        currency="USD",
        rows=[
            DonationRow("pi_1", 1234, "JPY", Status.PAID, "Smith", "US", 0, 1, 2, "cs_1", 5, 6),
            DonationRow("pi_2", None, None, Status.CREATED, None, None, 0, None, None, None, 0, 0),
        ],
        next=Cursor(-1, 0, "pi_2"),
    ),
)

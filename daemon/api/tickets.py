"""The two GET replies: rows of the ledger -> JSON (SPEC 5)."""

import base64
import hashlib
import re
from datetime import UTC, datetime

import msgspec
from aiohttp import web

from daemon.ledger import money
from daemon.ledger.donation import Status
from daemon.ledger.facts import TICKET_PATTERN
from daemon.ledger.reader import Cursor, Figures, Ledger, Moment, PageQuery, TotalsRow
from daemon.runtime.http.auth import OperatorAuthentication, Scope

PAGE = 100
PAGE_LIMIT = 1000
TOTAL_PATH = "/api/tickets/{id}/donations/total"
TOTAL_HEADERS = {"Cache-Control": "max-age=5"}
LEDGER_SEQ = "X-Ledger-Seq"  # the journal's last entry when the reply was read
TICKET = re.compile(TICKET_PATTERN)


class Donations:
    """The handlers of a ticket's ledger and totals.

    Args:
        default_currency: of tickets that name none.
        operators: who may read totals as they were known at an earlier moment.
    """

    def __init__(self, ledger: Ledger, default_currency: str, operators: OperatorAuthentication | None = None) -> None:
        self._ledger = ledger
        self._default_currency = default_currency
        self._operators_total_as_of = (operators or OperatorAuthentication(())).require(Scope.READ, self._total_as_of)

    async def page(self, request: web.Request) -> web.Response:
        """`GET /api/tickets/{id}/donations?limit=&cursor=&status=&currency=`"""
        query = _query(request, "limit", "cursor", "status", "currency")
        limit, after = _limit(query.get("limit")), _cursor(query.get("cursor"))
        status, currency = _status(query.get("status")), _currency(query.get("currency"))
        ticket = _ticket_id(request)
        page = await self._ledger.page(PageQuery(ticket, limit, self._default_currency, status, currency, after))
        if page is None:
            raise _unknown(ticket)
        reply = {
            "success": True,
            "count": page.count,
            "ticketId": ticket,
            "donations": msgspec.Raw(page.donations.encode()),
            "nextCursor": _opaque(page.next),
        }
        return _json(request, reply, {LEDGER_SEQ: str(page.ledger_seq)})

    async def total(self, request: web.Request) -> web.StreamResponse:
        """`GET /api/tickets/{id}/donations/total?currency=`; with `asOf=` for operators"""
        if "asOf" in request.query:
            return await self._operators_total_as_of(request)
        wanted = _currency(_query(request, "currency").get("currency"))
        ticket = _ticket_id(request)
        rows = await self._ledger.totals(ticket)
        if not rows:
            raise _unknown(ticket)
        top = wanted or rows[0].ticket_currency or self._default_currency
        by_currency = {row.currency: _figures(row.currency, row.figures) for row in rows if row.currency}
        return _json(
            request,
            {
                "success": True,
                **by_currency.get(top, _figures(top, Figures())),
                "lastDonation": _last_donation(rows[0], default_currency=top),
                "byCurrency": by_currency,
            },
            {**TOTAL_HEADERS, LEDGER_SEQ: str(rows[0].ledger_seq)},
        )

    async def _total_as_of(self, request: web.Request) -> web.Response:
        """The amounts as the journal's entries add up to at an earlier moment; it does not count donations."""
        query = _query(request, "asOf", "currency")
        moment, wanted = _moment(query["asOf"]), _currency(query.get("currency"))
        ticket = _ticket_id(request)
        rows = await self._ledger.totals_as_of(ticket, moment)
        if not rows:
            raise _unknown(ticket)
        recorded = rows[0].recorded_at
        top = wanted or rows[0].ticket_currency or self._default_currency
        by_currency = {row.currency: _amounts(row.currency, row.figures) for row in rows if row.currency}
        return _json(
            request,
            {
                "success": True,
                "asOf": {"seq": rows[0].seq, "recordedAt": recorded and recorded.astimezone(UTC)},
                **by_currency.get(top, _amounts(top, Figures())),
                "byCurrency": by_currency,
            },
            {LEDGER_SEQ: str(rows[0].seq)},
        )


def _json(request: web.Request, reply: object, headers: dict[str, str] | None = None) -> web.Response:
    """The reply with its ETag, or 304 for a client that has it already (RFC 9110, section 13.1.2)."""
    body = msgspec.json.encode(reply)
    tag = hashlib.blake2b(body, digest_size=16).hexdigest()
    known = request.if_none_match or ()
    if any(etag.value in (tag, "*") for etag in known):
        response = web.Response(status=304, headers=headers)
    else:
        response = web.Response(body=body, content_type="application/json", headers=headers)
    response.etag = tag
    return response


def _number(amount_minor: int | None, currency: str) -> msgspec.Raw:
    """An exact JSON number in major units. An amount that is not known yet is 0."""
    return msgspec.Raw(money.major(amount_minor or 0, currency).encode())


def _time(moment: datetime | None) -> str | None:
    """RFC 3339 in UTC, whole seconds as Stripe sends them."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if moment else None


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


def _last_donation(row: TotalsRow, *, default_currency: str) -> dict[str, object] | None:
    if row.last_paid_at is None:
        return None
    currency = row.last_currency or default_currency
    return {
        "paidAt": _time(row.last_paid_at),
        "amount": _number(row.last_amount_minor, currency),
        "currency": currency,
        "donor": row.last_donor or "Anonymous",
    }


def _query(request: web.Request, *allowed: str) -> dict[str, str]:
    """The query's parameters; one that is unknown or repeated is answered 400."""
    for name in request.query:
        if name not in allowed:
            raise web.HTTPBadRequest(text=f"unknown parameter (there are: {', '.join(allowed)})")
        if len(request.query.getall(name)) > 1:
            raise web.HTTPBadRequest(text=f"{name}: given more than once")
    return dict(request.query)


def _ticket_id(request: web.Request) -> str:
    ticket = request.match_info["id"]
    if not TICKET.fullmatch(ticket):
        raise web.HTTPBadRequest(
            text="id: a ticket id has 1 to 64 letters, digits, dashes and underscores, and "
            "no more than 8 if all are digits"
        )
    return ticket


def _unknown(ticket: str) -> web.HTTPNotFound:
    return web.HTTPNotFound(text=f"there is no ticket {ticket}")


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


def _opaque(place: str | None) -> str | None:
    """Where the next page begins: opaque to clients, so that it may change."""
    return None if place is None else base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


def _cursor(text: str | None) -> Cursor | None:
    if text is None:
        return None
    try:
        return Cursor.parse(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("ascii"))
    except ValueError:
        raise web.HTTPBadRequest(text="cursor: not one that a nextCursor gave") from None

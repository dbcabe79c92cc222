"""The public pages of a ticket: page, form, frame, badge, picture, and the lines to paste into other sites (SPEC 13).

All of them show the same figures, which are read by one query (`tickets.py`). What is rendered is kept as long as the
figures are the same ones, which are read each time.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from functools import lru_cache
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import parse_qsl

from aiohttp import hdrs, web

from daemon.languages import CODES, Language
from daemon.ledger.facts import TICKET_PATTERN
from daemon.pages import ticket_views
from daemon.pages.badge import badge
from daemon.pages.languages import language
from daemon.pages.picture import Picture, draw
from daemon.pages.rendering import HTML
from daemon.pages.replies import (
    CACHED,
    NO_SNIFFING,
    NOT_CACHED,
    SCRIPT,
    WITHOUT_FORM,
    page_text,
    reader_language,
    safety_headers,
    tagged,
    with_script,
)
from daemon.pages.ticket_views import Entered
from daemon.pages.tickets import FoundTicket, PublicTicket, Tickets
from daemon.runtime.http.limits import Places, read_body

STRIPE_CHECKOUT = ("https://checkout.stripe.com",)
PREFIXES = ("/tickets/", "/consent/", "/assets/")  # errors below these are pages
TICKET_PATH = "/tickets/{id}"
TICKET = re.compile(TICKET_PATTERN)
FORM_BYTES, FORM_FIELDS = 4096, 20
RENDERED = 128  # replies that are kept, of some 20 kB each
LEDGER_SEQ = "X-Ledger-Seq"
SVG, PNG = "image/svg+xml", "image/png"
# A picture that is opened by itself runs nothing and loads nothing; any site may show it.
PICTURE_HEADERS = {
    **NO_SNIFFING,
    "Content-Security-Policy": "default-src 'none'",
    "Cross-Origin-Resource-Policy": "cross-origin",
    hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: "*",
}


class CannotGive(Exception):
    """A payment could not begin.

    Attributes:
        message: the text of the catalogue that the donor reads.
        status: of the reply.
        headers: of the reply, such as Retry-After.
    """

    def __init__(self, message: str, status: int, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.headers = headers or {}


# Makes the page at Stripe on which a donor pays for a ticket, and returns its address. Raises CannotGive.
BeginPayment = Callable[[web.Request, str, Entered], Awaitable[str]]


@dataclass(frozen=True)
class PageSettings:
    """What an operator can set.

    Args:
        public_url: the address of this site, for links and pictures that other sites use; None: not set.
        frame_ancestors: the sites that may show the small page in a frame.
        zone: of the times that are shown.
        takes_payments: whether there is a form.
        fee_currencies: those in which a donor can pay the fee too.
        payment_sites: where the form may lead to.
    """

    public_url: str | None = None
    frame_ancestors: tuple[str, ...] = ()
    zone: tzinfo = UTC
    takes_payments: bool = False
    fee_currencies: frozenset[str] = field(default_factory=frozenset)
    payment_sites: tuple[str, ...] = STRIPE_CHECKOUT

    def address(self, ticket: str) -> str | None:
        """The public address of a ticket's page."""
        return f"{self.public_url.rstrip('/')}/tickets/{ticket}" if self.public_url else None


class PublicPages:
    """The handlers of the public pages of tickets.

    Args:
        places: of all these pages together, so that readers delay nothing else.
        begin_payment: for the form; not called unless `takes_payments`.
    """

    def __init__(self, tickets: Tickets, settings: PageSettings, places: Places, begin_payment: BeginPayment) -> None:
        self._tickets = tickets
        self._settings = settings
        self._places = places
        self._begin_payment = begin_payment
        self._drawing = asyncio.Lock()  # one thread draws at a time: it keeps a processor busy

    def routes(self) -> list[web.RouteDef]:
        """The routes of all these pages."""
        return [
            web.get(TICKET_PATH, self._within(self.page)),
            web.post(f"{TICKET_PATH}/give", self.give),
            web.get(f"{TICKET_PATH}/embed", self._within(self.frame)),
            web.get(f"{TICKET_PATH}/badge.svg", self._within(self.badge)),
            web.get(f"{TICKET_PATH}/picture.png", self._within(self.picture)),
            web.get(f"{TICKET_PATH}/share", self._within(self.share)),
            SCRIPT.route(),
        ]

    def _within(
        self, handler: Callable[[web.Request, FoundTicket], Awaitable[web.Response]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        """The handler, in one of the places, with the ticket that its address names."""

        async def handle(request: web.Request) -> web.Response:
            async with self._places:
                found = await self._found(request)
                reply = await handler(request, found)
            reply.headers[LEDGER_SEQ] = str(found.ledger_seq)
            return reply

        return handle

    async def _found(self, request: web.Request) -> FoundTicket:
        """The ticket that an address names. Raises HTTPNotFound."""
        if request.transport is None:
            raise ConnectionResetError("the client left while it waited for a place")
        id_ = request.match_info["id"]
        found = await self._tickets.read(id_) if TICKET.fullmatch(id_) else None
        if found is None:
            raise web.HTTPNotFound
        return found

    async def page(self, request: web.Request, found: FoundTicket) -> web.Response:
        """`GET /tickets/{id}?lang=`"""
        read_in, headers = reader_language(request)
        is_done = request.query.get("checkout") == "done"
        body = _page(self._settings, found.ticket, read_in.code, is_done=is_done)
        return tagged(
            request, body, HTML, {**safety_headers(with_script(self._settings.payment_sites)), **headers, **CACHED}
        )

    async def give(self, request: web.Request) -> web.Response:
        """`POST /tickets/{id}/give`: sends the donor to the page on which to pay, or shows the form again with what is
        wrong. While it waits for Stripe it has none of the places."""
        async with self._places:
            ticket, ledger_seq = await self._found(request)
        read_in, _headers = reader_language(request)
        entered = Entered.of(await _form_fields(request), ticket.currency, read_in)
        try:
            if not (ticket.is_open and self._settings.takes_payments):
                raise CannotGive("closed", HTTPStatus.CONFLICT)  # the page without a form says why
            if entered.amount is None:
                raise CannotGive("error_amount", HTTPStatus.BAD_REQUEST)
            address = await self._begin_payment(request, ticket.id, entered)
        except CannotGive as problem:
            reply = self._form_again(request, ticket, entered, problem)
            reply.headers[LEDGER_SEQ] = str(ledger_seq)
            return reply
        return web.Response(status=HTTPStatus.SEE_OTHER, headers={**NOT_CACHED, hdrs.LOCATION: address})

    def _form_again(
        self, request: web.Request, ticket: PublicTicket, entered: Entered, problem: CannotGive
    ) -> web.Response:
        """The page with the form as the donor has filled it in, and with what is wrong."""
        read_in, headers = reader_language(request)
        return web.Response(
            body=_page_with(self._settings, ticket, read_in, entered=entered, error=problem.message),
            status=problem.status,
            content_type=HTML,
            charset="utf-8",
            headers={
                **safety_headers(with_script(self._settings.payment_sites)),
                **headers,
                **NOT_CACHED,
                **problem.headers,
            },
        )

    async def frame(self, request: web.Request, found: FoundTicket) -> web.Response:
        """`GET /tickets/{id}/embed?lang=`: the figures, for a frame on another site"""
        read_in, headers = reader_language(request)
        safety = safety_headers(WITHOUT_FORM, self._settings.frame_ancestors)
        body = _frame(self._settings, found.ticket, read_in.code)
        return tagged(request, body, HTML, {**safety, **headers, **CACHED})

    async def badge(self, request: web.Request, found: FoundTicket) -> web.Response:
        """`GET /tickets/{id}/badge.svg?lang=`: the total as a picture, for any site"""
        read_in, headers = reader_language(request)
        return tagged(request, _badge(found.ticket, read_in.code), SVG, {**PICTURE_HEADERS, **headers, **CACHED})

    async def picture(self, request: web.Request, found: FoundTicket) -> web.Response:
        """`GET /tickets/{id}/picture.png?lang=`: what other sites show beside a link to the page"""
        read_in, headers = reader_language(request)
        async with self._drawing:
            body = await asyncio.to_thread(draw, _picture(found.ticket, read_in))
        return tagged(request, body, PNG, {**PICTURE_HEADERS, **headers, **CACHED})

    async def share(self, request: web.Request, found: FoundTicket) -> web.Response:
        """`GET /tickets/{id}/share?lang=`: the lines to paste into another site"""
        read_in, headers = reader_language(request)
        body = _share(self._settings, found.ticket, read_in.code)
        return tagged(request, body, HTML, {**safety_headers(WITHOUT_FORM), **headers, **CACHED})


async def _form_fields(request: web.Request) -> dict[str, str]:
    """The fields of a form. Raises HTTPBadRequest."""
    body = await read_body(request, FORM_BYTES)
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=FORM_FIELDS))
    except ValueError:
        raise web.HTTPBadRequest from None


def _values(settings: PageSettings, ticket: PublicTicket, read_in: Language) -> dict[str, object]:
    """What every template of a ticket shows."""
    return {
        "ticket": ticket,
        "path": f"/tickets/{ticket.id}",
        "address": settings.address(ticket.id),
        "goal": ticket_views.goal(ticket, read_in),
        "other_totals": [each for each in ticket.totals if each.currency != ticket.currency],
        "languages": [language(code) for code in CODES],
    }


def _page_with(
    settings: PageSettings,
    ticket: PublicTicket,
    read_in: Language,
    *,
    is_done: bool = False,
    entered: Entered | None = None,
    error: str = "",
) -> bytes:
    can_cover_fees = ticket.currency in settings.fee_currencies
    form = ticket_views.form(ticket, read_in, can_cover_fees=can_cover_fees, entered=entered, error=error)
    return page_text(
        "ticket",
        read_in,
        **_values(settings, ticket, read_in),
        is_done=is_done,
        description=ticket_views.description(ticket, read_in),
        lines=ticket_views.lines(ticket, read_in, settings.zone),
        form=form if settings.takes_payments else None,
        script=SCRIPT.url,
        zone=settings.zone,
    )


@lru_cache(maxsize=RENDERED)
def _page(settings: PageSettings, ticket: PublicTicket, code: str, *, is_done: bool) -> bytes:
    return _page_with(settings, ticket, language(code), is_done=is_done)


@lru_cache(maxsize=RENDERED)
def _frame(settings: PageSettings, ticket: PublicTicket, code: str) -> bytes:
    return page_text("frame", language(code), **_values(settings, ticket, language(code)))


class Snippet(NamedTuple):
    """Lines to paste into another site; `title` and `note` are texts of the catalogue."""

    title: str
    text: str
    note: str = ""
    has_picture: bool = False


def _share(settings: PageSettings, ticket: PublicTicket, code: str) -> bytes:
    read_in, address = language(code), settings.address(ticket.id)
    api = f"{settings.public_url}/api/tickets/{ticket.id}/donations/total"
    badge_tag = f'<img src="{address}/badge.svg?lang={code}" alt="" height="28">'
    frame_tag = (
        f'<iframe src="{address}/embed?lang={code}" title="{read_in.text("donations")}" '
        'width="360" height="330" loading="lazy"></iframe>'
    )
    snippets = [
        Snippet("share_link", f"{address}?lang={code}"),
        Snippet("share_badge", f'<a href="{address}?lang={code}">{badge_tag}</a>', has_picture=True),
        Snippet("share_frame", frame_tag, "share_frame_note"),
        Snippet("share_json", f'const figures = await (await fetch("{api}")).json();'),
    ]
    return page_text("share", read_in, **_values(settings, ticket, read_in), snippets=snippets)


@lru_cache(maxsize=RENDERED)
def _badge(ticket: PublicTicket, code: str) -> bytes:
    read_in = language(code)
    amount = read_in.amount(ticket.total.net_minor, ticket.currency, short=True)
    label = f"{ticket.title}: {ticket_views.description(ticket, read_in)}"
    return badge(ticket.title, amount, label, read_in.direction)


def _picture(ticket: PublicTicket, read_in: Language) -> Picture:
    near = ticket_views.goal(ticket, read_in)
    return Picture(
        read_in.code,
        read_in.direction,
        ticket.title,
        read_in.amount(ticket.total.net_minor, ticket.currency, short=True),
        read_in.text("raised"),
        read_in.text("raised_of_goal", percent=near.percent, goal=near.amount) if near else "",
        near.bar * 100 // near.minor if near else None,
    )

"""The page by which a donor withdraws the consent to showing the name (SPEC 13): the signed link of the thank-you mail.

Opening it changes nothing, because programs that check mails open each link; its button does.
"""

from http import HTTPStatus

from aiohttp import hdrs, web

from daemon.ledger.consent import is_signed, withdrawal_key
from daemon.ledger.operators import Operators
from daemon.ledger.search import FoundDonation, find
from daemon.pages.rendering import HTML
from daemon.pages.replies import NOT_CACHED, WITH_FORM, page_text, reader_language, safety_headers
from daemon.pages.tickets import Tickets
from daemon.runtime.http.limits import Places
from sql.database import Database

PATH = r"/consent/{donation:[A-Za-z0-9_]{1,255}}/{signature:[A-Za-z0-9_-]{22}}"
DONOR = "donor"  # who has withdrawn it, in the audit log


class ConsentPage:
    """The handlers of the page.

    Args:
        database: the primary server, so that a donor sees what was just done.
    """

    def __init__(self, database: Database, operators: Operators, tickets: Tickets, places: Places) -> None:
        self._database = database
        self._operators = operators
        self._tickets = tickets
        self._places = places
        self._key: bytes | None = None

    def routes(self) -> list[web.RouteDef]:
        """The routes of the page."""
        return [web.get(PATH, self.show), web.post(PATH, self.withdraw)]

    async def show(self, request: web.Request) -> web.Response:
        """`GET /consent/{donation}/{signature}`: what is shown now, and the button."""
        async with self._places:
            found = await self._found(request)
            ticket = await self._tickets.read(found.ticket) if found.ticket else None
        read_in, headers = reader_language(request)
        body = page_text(
            "consent",
            read_in,
            is_shown=found.consent,
            is_monthly=found.subscription is not None,
            title=ticket.ticket.title if ticket else found.ticket or "",
        )
        # The address is the right to use it: it is sent to no other site.
        safety = safety_headers(WITH_FORM) | {"Referrer-Policy": "same-origin"}
        return web.Response(body=body, content_type=HTML, charset="utf-8", headers={**safety, **headers, **NOT_CACHED})

    async def withdraw(self, request: web.Request) -> web.Response:
        """`POST /consent/{donation}/{signature}`: ends it, and shows the page again."""
        async with self._places:
            found = await self._found(request)
            if found.consent:
                await self._operators.withdraw_consent(found.id, actor=DONOR)
        return web.Response(status=HTTPStatus.SEE_OTHER, headers={**NOT_CACHED, hdrs.LOCATION: str(request.rel_url)})

    async def _found(self, request: web.Request) -> FoundDonation:
        """The donation that a link names. Raises HTTPNotFound for a link that this ledger has not signed."""
        donation, signature = request.match_info["donation"], request.match_info["signature"]
        if self._key is None:
            self._key = await withdrawal_key(self._database)
        if not is_signed(self._key, donation, signature):
            raise web.HTTPNotFound
        found = await find(self._database, donation)
        if found is None:
            raise web.HTTPNotFound
        return found

"""`POST /api/tickets/{id}/checkout`: makes a Checkout Session and answers with its address (SPEC 12).

A form posts to the ticket's page, which calls `Checkout.begin` too. Only pages of this instance may begin a checkout:
there are no CORS headers, and browsers state from which site a request comes. A slow Stripe keeps no more than the
places of checkouts busy.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
from aiohttp import hdrs, web
from msgspec import Struct

from daemon.api.checkout_limits import CheckoutLimits
from daemon.api.tickets import ticket_id
from daemon.ledger import tickets
from daemon.ledger.tickets import State, Ticket
from daemon.runtime.http.addresses import client_address
from daemon.runtime.http.errors import RETRY_AFTER_S
from daemon.runtime.http.limits import Places, read_body
from daemon.runtime.rate_limited_log import IncidentLog
from daemon.stripe_api import checkout
from daemon.stripe_api.charge_amounts import Fee
from daemon.stripe_api.checkout import CheckoutRequest, InvalidCheckout, Target
from daemon.stripe_api.client import StripeApi, StripeRejected, StripeUnavailable
from sql.database import Queryable

CHECKOUT_PATH = "/api/tickets/{id}/checkout"
BODY_LIMIT = 4096  # a request has some hundred bytes
STRIPE_DEADLINE_S = 8.0  # for a donor who waits; Stripe usually needs half a second
# Stripe's codes for what only the amount can be the reason of: https://docs.stripe.com/error-codes
AMOUNT_CODES = frozenset({"amount_too_small", "amount_too_large"})


@dataclass(frozen=True)
class CheckoutSettings:
    """What an operator can set.

    Args:
        default_currency: of tickets that name none.
        public_url: below which donors return; None: not set.
        fees: of a payment in each currency that the fee can be covered in.
    """

    default_currency: str
    public_url: str | None
    fees: Mapping[str, Fee]


class SessionReply(Struct):
    """What is read of a Checkout Session."""

    url: str


class Checkout:
    """Begins Checkout Sessions.

    Args:
        database: for reading tickets.
        stripe: None without STRIPE_API_KEY.
        limits: how many sessions may begin.
        places: of sessions that this process begins at the same time.
    """

    def __init__(
        self,
        database: Queryable,
        stripe: StripeApi | None,
        settings: CheckoutSettings,
        limits: CheckoutLimits,
        places: Places,
    ) -> None:
        self._database = database
        self._stripe = stripe
        self._settings = settings
        self._limits = limits
        self._places = places
        self._unavailable = IncidentLog("warning", "[API] No checkout, because Stripe's API cannot be used")
        self._rejected = IncidentLog("error", "[API] No checkout, because Stripe's API rejects it")

    def routes(self) -> list[web.RouteDef]:
        """The endpoint."""
        return [web.post(CHECKOUT_PATH, self.receive)]

    async def receive(self, request: web.Request) -> web.Response:
        """Answers a request with the address of a session."""
        check_site(request)
        body = await read_body(request, BODY_LIMIT)
        try:
            url = await self.begin(
                ticket_id(request),
                checkout.read_json(body),
                client_address(request.remote),
                request.headers.get("Idempotency-Key"),
            )
        except InvalidCheckout as problem:
            raise web.HTTPBadRequest(text=str(problem)) from None
        return web.json_response({"url": url}, headers={hdrs.CACHE_CONTROL: "no-store"})

    async def begin(self, ticket: str, wanted: CheckoutRequest, address: str, client_key: str | None = None) -> str:
        """Makes a session, and returns its URL.

        Args:
            ticket: its id.
            address: of the donor, as `client_address` returns it.
            client_key: the client's Idempotency-Key.

        Raises:
            InvalidCheckout: the request or the key is not valid.
            HTTPException: 404, 409, 429, 502 or 503, with a text that says what to do.
            Busy: all places are taken.
        """
        stripe, public_url = self._stripe, self._settings.public_url
        if stripe is None or public_url is None:
            missing = "STRIPE_API_KEY" if stripe is None else "PUBLIC_URL"
            raise web.HTTPServiceUnavailable(text=f"this site takes no payments: {missing} is not set")
        async with self._places:
            found = _open(await tickets.find(self._database, ticket), ticket)
            currency = (wanted.currency or found.currency or self._settings.default_currency).upper()
            amount_minor = checkout.charged_minor(wanted, currency, self._settings.fees)
            params = checkout.session_params(wanted, amount_minor, currency, Target(ticket, found.title, public_url))
            key = checkout.idempotency_key(client_key, params)
            await self._count(address)
            return await self._create(stripe, params, key)

    async def _count(self, address: str) -> None:
        """Counts one more session. Raises 429 if the address, or all together, began too many."""
        if wait_s := await self._limits.count(address):
            seconds = str(math.ceil(wait_s))
            raise web.HTTPTooManyRequests(
                text=f"too many payments were begun: try again in {seconds} s", headers={hdrs.RETRY_AFTER: seconds}
            )

    async def _create(self, stripe: StripeApi, params: Mapping[str, object], key: str) -> str:
        try:
            reply = await stripe.post(checkout.PATH, params, idempotency_key=key)
            return msgspec.json.decode(reply.body, type=SessionReply).url
        except StripeUnavailable as problem:
            self._unavailable.report(problem.reason)
            wait_s = str(math.ceil(problem.retry_after_s) or RETRY_AFTER_S)
            raise web.HTTPServiceUnavailable(
                text="the payment service does not answer: try again later", headers={hdrs.RETRY_AFTER: wait_s}
            ) from None
        except StripeRejected as problem:
            raise self._judge(problem) from None
        except msgspec.MsgspecError:
            self._unavailable.report("a session without its URL")
            raise web.HTTPBadGateway(text="the payment service did not answer as expected: try again later") from None

    def _judge(self, problem: StripeRejected) -> web.HTTPException:
        if problem.code in AMOUNT_CODES:
            return web.HTTPBadRequest(text="amount: Stripe does not charge this amount")
        if (problem.param or "").endswith("[currency]"):
            return web.HTTPBadRequest(text="currency: Stripe does not charge in this currency")
        self._rejected.report(str(problem))
        return web.HTTPBadGateway(text="the payment service rejects every payment; the log of this site contains why")


def check_site(request: web.Request) -> None:
    """Raises 403 for a form that is on another site (https://www.w3.org/TR/fetch-metadata/)."""
    if request.headers.get("Sec-Fetch-Site") == "cross-site":
        raise web.HTTPForbidden(text="only the pages of this site begin a payment; link to the ticket's page instead")


def _open(ticket: Ticket | None, id_: str) -> Ticket:
    """The ticket, if something can be given for it. Raises 404 or 409."""
    if ticket is None or ticket.state is State.HIDDEN:
        raise web.HTTPNotFound(text=f"there is no ticket {id_}")
    if ticket.state is State.CLOSED:
        raise web.HTTPConflict(text=f"ticket {id_} is closed: nothing new is collected for it")
    return ticket

"""Wires the public pages of `daemon.pages` into an API process: their settings, their database, and payments."""

from http import HTTPStatus
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from daemon.api.checkout import Checkout, check_site
from daemon.api.config import Config
from daemon.ledger.operators import Operators
from daemon.pages.consent_page import ConsentPage
from daemon.pages.public import STRIPE_CHECKOUT, BeginPayment, CannotGive, PageSettings, PublicPages
from daemon.pages.replies import KEPT_HEADERS
from daemon.pages.ticket_views import Entered
from daemon.pages.tickets import Tickets
from daemon.reports.time_zones import load_time_zone
from daemon.runtime.http.addresses import client_address
from daemon.runtime.http.errors import RETRY_AFTER_S, Busy
from daemon.runtime.http.limits import Places
from daemon.stripe_api.checkout import CheckoutRequest, InvalidCheckout
from daemon.stripe_api.config import is_loopback
from sql.database import Database, Queryable

CONSENT_PLACES = (
    1  # donors who withdraw at the same time; each has a connection of the operators' for some milliseconds
)
# What a donor reads, by the status of a checkout's error; errors with other statuses are pages of their own.
MESSAGES = {
    HTTPStatus.BAD_REQUEST: "error_range",
    HTTPStatus.TOO_MANY_REQUESTS: "error_limit",
    HTTPStatus.BAD_GATEWAY: "error_payment",
    HTTPStatus.SERVICE_UNAVAILABLE: "error_payment",
}


def public_routes(
    config: Config, checkout: Checkout, *, readers: Queryable, writers: Database, operators: Operators
) -> list[web.RouteDef]:
    """The routes of the public pages.

    Args:
        readers: for what the pages show; a replica will do.
        writers, operators: the primary server, for the withdrawal of consent.
    """
    tickets = Tickets(readers, config.default_currency)
    pages = PublicPages(
        tickets,
        page_settings(config),
        Places("public pages", config.public_page_places),
        begin_payment(checkout),
    )
    consent = ConsentPage(writers, operators, tickets, Places("withdrawals of consent", CONSENT_PLACES))
    return [*pages.routes(), *consent.routes()]


def page_settings(config: Config) -> PageSettings:
    """The settings of the pages."""
    return PageSettings(
        config.public_url,
        config.frame_ancestors,
        load_time_zone(config.report_time_zone),
        takes_payments=config.stripe_api_key is not None and config.public_url is not None,
        fee_currencies=frozenset(config.checkout_fees),
        payment_sites=(*STRIPE_CHECKOUT, *_fake_checkout(config.stripe_api_base)),
    )


def _fake_checkout(api_base: str) -> list[str]:
    """Where a fake of Stripe's API has its pages: at the address of the API, on this machine."""
    parts = urlsplit(api_base)
    return [f"{parts.scheme}://{parts.netloc}"] if is_loopback(parts.hostname or "") else []


def begin_payment(checkout: Checkout) -> BeginPayment:
    """What the form of a page does: it begins a checkout, and its errors are texts for the donor."""

    async def begin(request: web.Request, ticket: str, entered: Entered) -> str:
        check_site(request)
        if entered.amount is None:
            raise CannotGive("error_amount", HTTPStatus.BAD_REQUEST)
        wanted = CheckoutRequest(
            amount=entered.amount,
            monthly=entered.monthly,
            cover_fees=entered.cover_fees,
            show_name=entered.show_name,
        )
        try:
            return await checkout.begin(ticket, wanted, client_address(request.remote))
        except InvalidCheckout:
            raise CannotGive("error_range", HTTPStatus.BAD_REQUEST) from None
        except Busy:
            headers: dict[str, str] = {hdrs.RETRY_AFTER: str(RETRY_AFTER_S)}
            raise CannotGive("error_payment", HTTPStatus.SERVICE_UNAVAILABLE, headers) from None
        except web.HTTPException as error:
            message = MESSAGES.get(HTTPStatus(error.status))
            if message is None:
                raise
            headers = {name: error.headers[name] for name in KEPT_HEADERS if name in error.headers}
            raise CannotGive(message, error.status, headers) from None

    return begin

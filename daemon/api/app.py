"""The application of an API process: routes, the check of readiness, and the one table from errors to replies."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import cast

from aiohttp import web
from aiohttp.typedefs import Middleware

from daemon.api.endpoints import PREFIX
from daemon.api.error_replies import NOT_READY
from daemon.api.reply_queue import ReplyParts
from daemon.api.request_context import log_context
from daemon.api.tickets import PAGE_PATH, TOTAL_PATH, Donations, allow_all_sites, is_large_page
from daemon.api.webhook import BODY_LIMIT, Webhook
from daemon.pages.console import as_page, is_of_console
from daemon.pages.public import PREFIXES
from daemon.pages.replies import error_page
from daemon.runtime.http.addresses import TrustedProxies
from daemon.runtime.http.auth import OperatorAuthentication, Scope
from daemon.runtime.http.errors import as_problem, unavailable
from daemon.runtime.http.health_routes import HealthChecks, is_health_check
from daemon.runtime.http.limits import DEADLINE, Places

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class ReadPlaces:
    """The places of the requests for each kind of read that are worked on at the same time.

    Rendering a page of more than the usual number of donations takes milliseconds: such pages have few places.
    """

    pages: Places = field(default_factory=lambda: Places("ledger pages", 64))
    large_pages: Places = field(default_factory=lambda: Places("large ledger pages", 2))
    totals: Places = field(default_factory=lambda: Places("reads", 256))


def build(
    webhook: Webhook,
    donations: Donations,
    parts: ReplyParts,
    *,
    health: HealthChecks | None = None,
    read_places: ReadPlaces | None = None,
    ledger_access: OperatorAuthentication | None = None,
    feature_routes: Iterable[web.RouteDef] = (),
    trusted_proxies: TrustedProxies | None = None,
) -> web.Application:
    """The application of an API process.

    Args:
        ledger_access: who may read the ledger; None if it is public. Totals always are.
        feature_routes: of the operator API, the checkout and other features.
        trusted_proxies: whose clients' addresses count as those of the requests.
    """
    places = read_places or ReadPlaces()
    page = _within(lambda request: places.large_pages if is_large_page(request) else places.pages, donations.page)
    if ledger_access:
        page = ledger_access.require(Scope.READ, page)
    app = web.Application(
        client_max_size=BODY_LIMIT, middlewares=[_gateway(parts, (trusted_proxies or TrustedProxies()).resolve)]
    )
    app.add_routes((health or HealthChecks(lambda: parts.readiness.state)).routes())
    app.add_routes(
        [
            web.post("/webhooks/stripe", webhook.receive),
            web.get(PAGE_PATH, page),
            web.get(TOTAL_PATH, _within(lambda _request: places.totals, donations.total)),
            *feature_routes,
        ]
    )
    return app


def _within(places: Callable[[web.Request], Places], handler: Handler) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        async with places(request):
            if request.transport is None:
                raise ConnectionResetError("the client left while it waited for a place")
            return await handler(request)

    return handle


def _gateway(parts: ReplyParts, resolve: Callable[[web.Request], web.Request]) -> Middleware:
    @web.middleware
    async def gateway(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.perf_counter()
        request = resolve(request)
        if parts.readiness.ready or is_health_check(request):
            response = await _answer(request, handler, parts)
        else:
            response = unavailable(NOT_READY)
        if _route(request) == TOTAL_PATH:
            allow_all_sites(response)
        if response.status >= HTTPStatus.BAD_REQUEST and request.path.startswith(PREFIX):
            response = as_problem(cast(web.Response, response))
        elif response.status >= HTTPStatus.BAD_REQUEST and is_of_console(request.path):
            response = as_page(cast(web.Response, response))
        elif response.status >= HTTPStatus.BAD_REQUEST and request.path.startswith(PREFIXES):
            response = error_page(request, response)
        if parts.draining.is_set():
            response.force_close()
        took_s = time.perf_counter() - started
        parts.metrics.request_answered(_route(request), request.method, response.status, took_s)
        return response

    return gateway


async def _answer(request: web.Request, handler: Handler, parts: ReplyParts) -> web.StreamResponse:
    try:
        async with asyncio.timeout(parts.deadline_s) as deadline:
            request[DEADLINE] = deadline
            return await handler(request)
    except Exception as error:
        return parts.errors.reply(error, _route(request), lambda: log_context(request))


def _route(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return resource.canonical if resource else "none"

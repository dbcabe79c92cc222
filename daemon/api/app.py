"""The application of an API process: routes, the check of readiness, and the one table from errors to replies."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import cast

from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware

from daemon.api.endpoints import PREFIX
from daemon.api.metrics import ApiMetrics
from daemon.api.request_context import log_context
from daemon.api.tickets import TOTAL_PATH, Donations
from daemon.api.webhook import BODY_LIMIT, Webhook
from daemon.ledger.batcher import Overloaded
from daemon.runtime.http.auth import OperatorAuthentication, Scope
from daemon.runtime.http.errors import BodyTimeout, Busy, NoMemory, as_problem, error_reply, unavailable
from daemon.runtime.http.health_routes import health_routes, is_health_check
from daemon.runtime.http.limits import DEADLINE, Places
from daemon.runtime.rate_limited_log import IncidentLog
from daemon.runtime.readiness import ReadinessClient
from sql.errors import DatabaseUnavailable, StatementRejected, remedy

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# What can go wrong with a request for reasons of ours, with its log line. It repeats with each request: it is written
# once, and then counted.
FAULTS = {
    "busy": ("warning", "[API] More requests at the same time than the limits allow"),
    "down": ("warning", "[API] Database unavailable"),
    "schema": ("error", "[API] The schema is not as it should be"),
    "slow": ("warning", "[API] Request took too long"),
    "unexpected": ("error", "[API] Unexpected error"),
}
Faults = dict[str, IncidentLog]

NOT_READY = "Database connection is currently unavailable"


@dataclass(frozen=True)
class WorkLimits:
    """How many requests for each kind of read are worked on at the same time."""

    pages: int = 64
    reads: int = 256


def build(
    webhook: Webhook,
    donations: Donations,
    readiness: ReadinessClient,
    metrics: ApiMetrics,
    *,
    deadline_s: float,
    draining: asyncio.Event,
    work: WorkLimits = WorkLimits(),
    ledger_access: OperatorAuthentication | None = None,
    operator_routes: Iterable[web.RouteDef] = (),
) -> web.Application:
    """The application of an API process.

    Args:
        readiness: checked before anything else, except for health checks.
        deadline_s: the time that one request may take in total.
        draining: once set, each reply closes its connection, so that clients connect to another process.
        ledger_access: who may read the ledger; None if it is public. Totals always are.
        operator_routes: of the operator API.
    """
    page = _within(Places("ledger pages", work.pages), donations.page)
    if ledger_access:
        page = ledger_access.require(Scope.READ, page)
    app = web.Application(client_max_size=BODY_LIMIT, middlewares=[_gateway(readiness, metrics, deadline_s, draining)])
    app.add_routes(health_routes(lambda: readiness.state))
    app.add_routes(
        [
            web.post("/webhooks/stripe", webhook.receive),
            web.get("/api/tickets/{id}/donations", page),
            web.get(TOTAL_PATH, _within(Places("reads", work.reads), donations.total)),
            *operator_routes,
        ]
    )
    return app


def _within(places: Places, handler: Handler) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        async with places:
            if request.transport is None:
                raise ConnectionResetError("the client left while it waited for a place")
            return await handler(request)

    return handle


def _gateway(readiness: ReadinessClient, metrics: ApiMetrics, deadline_s: float, draining: asyncio.Event) -> Middleware:
    faults = {name: IncidentLog(level, text) for name, (level, text) in FAULTS.items()}

    @web.middleware
    async def gateway(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.perf_counter()
        if readiness.ready or is_health_check(request):
            response = await _answer(request, handler, readiness, deadline_s, faults)
        else:
            response = unavailable(NOT_READY)
        if _route(request) == TOTAL_PATH:  # errors too: otherwise a browser hides them from the page
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = "*"
        if response.status >= HTTPStatus.BAD_REQUEST and request.path.startswith(PREFIX):
            response = as_problem(cast(web.Response, response))
        if draining.is_set():
            response.force_close()
        metrics.request_answered(_route(request), request.method, response.status, time.perf_counter() - started)
        return response

    return gateway


async def _answer(
    request: web.Request, handler: Handler, readiness: ReadinessClient, deadline_s: float, faults: Faults
) -> web.StreamResponse:
    try:
        async with asyncio.timeout(deadline_s) as deadline:
            request[DEADLINE] = deadline
            return await handler(request)
    except web.HTTPException as error:
        return error_reply(error)
    except Busy as limit:
        faults["busy"].report(limit.kind)
        return unavailable("There are more requests of this kind than can be worked on at the same time")
    except NoMemory:
        return unavailable("There are more requests than fit into memory")
    except BodyTimeout:
        return error_reply(web.HTTPRequestTimeout())
    except (web.RequestPayloadError, ConnectionError):
        return error_reply(web.HTTPBadRequest(text="the body is not complete"))
    except DatabaseUnavailable as down:
        readiness.report_failure()
        faults["down"].report(down.kind, **remedy(down.kind), **log_context(request))
        return unavailable(NOT_READY)
    except Overloaded:
        return unavailable("There are more events than can wait")
    except StatementRejected as refused:
        readiness.report_failure()
        faults["schema"].report(str(refused), route=_route(request), **log_context(request))
        return unavailable(NOT_READY)
    except TimeoutError:
        faults["slow"].report(_route(request), **log_context(request))
        return unavailable(NOT_READY)
    except Exception as error:
        # The error's text and trace may hold anything; its type and place are enough to find it.
        faults["unexpected"].report(
            f"{type(error).__name__} at {_place(error)}", route=_route(request), **log_context(request)
        )
        return error_reply(web.HTTPInternalServerError(text="unexpected error; the log contains the details"))


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}" if trace else ""


def _route(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return resource.canonical if resource else "none"

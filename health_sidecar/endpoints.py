"""The sidecar's application: GET /health/history, /health/status and /metrics. None of them touches the database."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from daemon.runtime.http.errors import Busy, error_body, unavailable
from daemon.runtime.http.health_routes import HealthChecks
from daemon.runtime.http.limits import Places
from daemon.runtime.readiness import Readiness

# A health check must not be answered from a cache.
_HEADERS = {"Cache-Control": "no-store"}
METRICS_PLACES = 2  # adding up the files of many processes takes a whole processor core
HISTORY_WINDOW = timedelta(days=1)

Moment = Annotated[datetime, msgspec.Meta(tz=True)]
Report = dict[str, object]


def metrics_route(registry: CollectorRegistry) -> web.RouteDef:
    """GET /metrics in the format that the client requests."""
    places = Places("metrics", METRICS_PLACES)

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        try:
            async with places:
                # Adding up the files of many processes takes a while; heartbeats continue meanwhile.
                page = await asyncio.to_thread(encode, registry)
        except Busy:
            return unavailable("There are more requests for metrics than can be answered at the same time")
        return web.Response(body=page, headers={"Content-Type": content_type})

    return web.get("/metrics", metrics)


def report_routes(
    history: Callable[[datetime, datetime], Report], status: Callable[[], Awaitable[Report]]
) -> list[web.RouteDef]:
    """GET /health/history?since= and GET /health/status.

    Args:
        history: the report of a window, given its start and its end.
    """

    async def history_since(request: web.Request) -> web.Response:
        now = datetime.now(UTC)
        try:
            since = _moment(request.query["since"]) if "since" in request.query else now - HISTORY_WINDOW
            if since >= now:
                raise ValueError("since: must not be in the future")
        except ValueError as error:
            return web.json_response(error_body(400, str(error)), status=400, headers=_HEADERS)
        return web.json_response(history(since, now), headers=_HEADERS)

    async def status_now(_request: web.Request) -> web.Response:
        return web.json_response(await status(), headers=_HEADERS)

    return [web.get("/health/history", history_since), web.get("/health/status", status_now)]


def _moment(text: str) -> datetime:
    """A time in the format of RFC 3339. Raises ValueError with what is expected."""
    try:
        return msgspec.convert(text, Moment).astimezone(UTC)
    except (msgspec.ValidationError, OverflowError):
        raise ValueError(
            "since: needs a time as in RFC 3339, such as 2024-12-16T12:30:00Z (in a URL + is written %2B)"
        ) from None


def build_app(
    state: Callable[[], Readiness], registry: CollectorRegistry, reports: list[web.RouteDef] | None = None
) -> web.Application:
    """The sidecar's application."""
    app = web.Application()
    app.add_routes([*HealthChecks(state).routes(), *(reports or []), metrics_route(registry)])
    return app

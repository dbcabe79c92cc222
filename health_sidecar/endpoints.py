"""GET /health/live, /health/db, /health and /metrics. None of them touches the database."""

import asyncio
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from health_sidecar.readiness import Readiness, utc_text

# A health check answered from a cache is none.
_HEADERS = {"Cache-Control": "no-store"}


def health_routes(state: Callable[[], Readiness]) -> list[web.RouteDef]:
    """The three health endpoints, for the sidecar and the API alike; `state` gives the current readiness.

    /health/db and /health answer 200 when ready, else 503; /health/live always 200.
    """
    started_s = time.monotonic()

    def alive() -> dict[str, object]:
        return {
            "status": "alive",
            "timestamp": utc_text(datetime.now(UTC)),
            "uptime": int(time.monotonic() - started_s),
            "pid": os.getpid(),
        }

    async def live(_request: web.Request) -> web.Response:
        return web.json_response(alive(), headers=_HEADERS)

    async def database(_request: web.Request) -> web.Response:
        now = state()
        return web.json_response(now.to_json(), status=_status(now), headers=_HEADERS)

    async def health(_request: web.Request) -> web.Response:
        now = state()
        return web.json_response(alive() | now.to_json(), status=_status(now), headers=_HEADERS)

    return [web.get("/health/live", live), web.get("/health/db", database), web.get("/health", health)]


def _status(state: Readiness) -> int:
    return 200 if state.ready else 503


def metrics_route(registry: CollectorRegistry) -> web.RouteDef:
    """GET /metrics in the format the scraper asks for."""

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        # Many processes' files take a while to add up; heartbeats go on meanwhile.
        page = await asyncio.to_thread(encode, registry)
        return web.Response(body=page, headers={"Content-Type": content_type})

    return web.get("/metrics", metrics)


def build_app(state: Callable[[], Readiness], registry: CollectorRegistry) -> web.Application:
    """The sidecar's whole HTTP side."""
    app = web.Application()
    app.add_routes([*health_routes(state), metrics_route(registry)])
    return app

"""GET /health/live, /health/db and /health. None of them touches the database."""

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime

from aiohttp import web

from daemon.runtime.readiness import Readiness, utc_text

# A health check must not be answered from a cache.
_HEADERS = {"Cache-Control": "no-store"}


def is_health_check(request: web.BaseRequest) -> bool:
    """Whether the request is one that is always answered."""
    return request.path == "/health" or request.path.startswith("/health/")


def health_routes(state: Callable[[], Readiness]) -> list[web.RouteDef]:
    """The three health endpoints; `state` gives the current readiness.

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

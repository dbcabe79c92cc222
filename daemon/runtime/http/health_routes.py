"""GET /health/live, /health/db and /health. None of them touches the database."""

import os
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from aiohttp import web

from daemon.runtime.http.short_path import PreparedReply
from daemon.runtime.readiness import Readiness, utc_text

# A health check must not be answered from a cache.
_HEADERS = {"Cache-Control": "no-store"}


def is_health_check(request: web.BaseRequest) -> bool:
    """Whether the request is one that is always answered."""
    return request.path == "/health" or request.path.startswith("/health/")


def begins_health_check(data: bytes) -> bool:
    """Whether these first bytes of a request may be a health check's."""
    return data.startswith(b"GET /health")


class HealthChecks:
    """The replies of the three health endpoints.

    /health/db and /health answer 200 when ready, else 503; /health/live always 200.

    Args:
        state: gives the current readiness.
    """

    def __init__(self, state: Callable[[], Readiness]) -> None:
        self._state = state
        self._started_s = time.monotonic()
        self._replies = {"/health/live": self._live, "/health/db": self._database, "/health": self._health}
        self._prepared: tuple[Readiness, PreparedReply] | None = None

    @property
    def paths(self) -> list[str]:
        """The paths of the endpoints."""
        return list(self._replies)

    def routes(self) -> list[web.RouteDef]:
        """The endpoints as aiohttp serves them."""
        return [web.get(path, _handler(reply)) for path, reply in self._replies.items()]

    def prepared(self, path: str) -> PreparedReply:
        """The reply of an endpoint on the short path. That of /health/db stays the same until the state changes."""
        if path != "/health/db":
            return PreparedReply.of(self._replies[path]())
        now = self._state()
        if self._prepared is None or self._prepared[0] is not now:
            self._prepared = now, PreparedReply.of(self._database())
        return self._prepared[1]

    def _alive(self) -> dict[str, object]:
        return {
            "status": "alive",
            "timestamp": utc_text(datetime.now(UTC)),
            "uptime": int(time.monotonic() - self._started_s),
            "pid": os.getpid(),
        }

    def _live(self) -> web.Response:
        return web.json_response(self._alive(), headers=_HEADERS)

    def _database(self) -> web.Response:
        now = self._state()
        return web.json_response(now.to_json(), status=_status(now), headers=_HEADERS)

    def _health(self) -> web.Response:
        now = self._state()
        return web.json_response(self._alive() | now.to_json(), status=_status(now), headers=_HEADERS)


def _handler(reply: Callable[[], web.Response]) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(_request: web.Request) -> web.Response:
        return reply()

    return handle


def _status(state: Readiness) -> int:
    return 200 if state.ready else 503

"""What the HTTP server of an API process rejects before any handler: one counted log line, and the metrics."""

from daemon.api.metrics import ApiMetrics
from daemon.runtime.rate_limited_log import CountingLog


class Refusals:
    """Counts rejected requests and closed connections."""

    def __init__(self, metrics: ApiMetrics) -> None:
        self._metrics = metrics
        self._not_http = CountingLog("[API] ❌ Rejected requests that are not HTTP")
        self._closed = CountingLog("[API] Connections were closed because a limit was reached")

    def bad_request(self) -> None:
        """Count a request that is not HTTP: its route, method and duration are unknown."""
        self._metrics.request_answered("none", "other", 400, 0.0)
        self._not_http.count("bad request")

    def connection_closed(self, limit: str) -> None:
        """Count a connection that was closed for the sake of the others."""
        self._closed.count(limit)

"""What an API process counts. The files behind these are kept per process slot; the sidecar serves their sum."""

import os
from functools import cache

import prometheus_client as prometheus
from prometheus_client import values

from daemon.facts import HANDLERS

# Files by slot and not by pid, so that a restart neither loses a count nor counts it twice. This must happen before
# the first metric is made, and the library reads its folder from the environment too.
if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
    _SLOT = os.environ.get("API_SLOT", "0")  # the library asks for it at each count
    values.ValueClass = values.MultiProcessValue(lambda: _SLOT)  # type: ignore[no-untyped-call]

WEBHOOK_EVENTS = prometheus.Counter("webhook_events", "Webhooks by type and outcome", ["type", "outcome"])
WEBHOOK_REFUSED = prometheus.Counter("webhook_refused", "Bodies that are no signed event, by reason", ["reason"])
WEBHOOK_DURATION = prometheus.Histogram("webhook_duration_seconds", "From the body's arrival to the reply")
HTTP_REQUESTS = prometheus.Counter("http_requests", "Requests by route pattern", ["route", "method", "status"])
HTTP_DURATION = prometheus.Histogram("http_request_duration_seconds", "Time to a reply", ["route"])

METHODS = ("GET", "POST", "HEAD", "OPTIONS")


def webhook(event_type: str, outcome: str, duration_s: float) -> None:
    """A signed event was answered. Its type is a label only if it is handled, so that labels stay few."""
    _webhook_events(event_type if event_type in HANDLERS else "other", outcome).inc()
    WEBHOOK_DURATION.observe(duration_s)


def refused(reason: str) -> None:
    """A body was no signed event."""
    _webhook_events("none", "refused").inc()
    WEBHOOK_REFUSED.labels(reason).inc()


def request(route: str, method: str, status: int, duration_s: float) -> None:
    """A request was answered; `route` is its pattern, never its path."""
    _requests(route, method if method in METHODS else "other", status).inc()
    _durations(route).observe(duration_s)


# The library's own lookup by labels takes a lock and builds strings, on each event.


@cache
def _webhook_events(event_type: str, outcome: str) -> prometheus.Counter:
    return WEBHOOK_EVENTS.labels(event_type, outcome)


@cache
def _requests(route: str, method: str, status: int) -> prometheus.Counter:
    return HTTP_REQUESTS.labels(route, method, str(status))


@cache
def _durations(route: str) -> prometheus.Histogram:
    return HTTP_DURATION.labels(route)

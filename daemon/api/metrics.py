"""What an API process counts. The files behind these are kept per process slot; the sidecar serves their sum."""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import prometheus_client as prometheus
from prometheus_client import values

from daemon.api.metrics_files import MetricsFiles
from daemon.ledger.stripe_events import HANDLERS
from daemon.runtime import logging as logs

# This must happen before the first metric is made. The library looks for its folder in the environment too.
_FOLDER = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
_FILES = MetricsFiles(Path(_FOLDER), os.environ.get("API_SLOT", "0")) if _FOLDER else None
if _FILES is not None:
    values.ValueClass = _FILES.value

WEBHOOK_EVENTS = prometheus.Counter("webhook_events", "Webhooks by type and outcome", ["type", "outcome"])
WEBHOOK_REFUSED = prometheus.Counter("webhook_refused", "Bodies that are no signed event, by reason", ["reason"])
WEBHOOK_DURATION = prometheus.Histogram("webhook_duration_seconds", "From the body's arrival to the reply")
BATCHES = prometheus.Histogram(
    "webhook_batch_events", "Events written by one statement", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256)
)
QUEUE = prometheus.Gauge(
    "webhook_queue_events", "Events that wait for the statement in flight", multiprocess_mode="livesum"
)
NEWEST_EVENT = prometheus.Gauge(
    "webhook_newest_event_timestamp_seconds",
    "Stripe's `created` of the newest event applied; 0: none yet",
    multiprocess_mode="max",
)
UNKNOWN_STATUSES = prometheus.Counter(
    "stripe_unknown_statuses",
    "Events applied whose refund or dispute has a status that this release does not know",
    ["object"],
)
CLOCK_SKEW = prometheus.Gauge(
    "webhook_clock_skew_seconds",
    "Our clock minus the time in the newest valid signature",
    multiprocess_mode="mostrecent",
)
POOL = prometheus.Gauge(
    "db_pool_connections", "Connections to PostgreSQL by state", ["state"], multiprocess_mode="livesum"
)
POOL_MAX = prometheus.Gauge(
    "db_pool_connections_max", "Connections to PostgreSQL there may be", multiprocess_mode="livesum"
)
HTTP_REQUESTS = prometheus.Counter("http_requests", "Requests by route pattern", ["route", "method", "status"])
HTTP_DURATION = prometheus.Histogram("http_request_duration_seconds", "Time to a reply", ["route"])
# The sidecar adds its own to the same name.
LOG_DROPPED = prometheus.Counter("log_lines_dropped", logs.DROPPED_HELP, ["process"]).labels("api")

METHODS = ("GET", "POST", "HEAD", "OPTIONS")
POOL_STATES = ("used", "idle")
SAMPLE_INTERVAL_S = 1.0  # of what changes all the time; well below anybody's scrape interval

# What alerts count with increase(): it does not see a counter's first step if the counter was not there before.
WEBHOOK_ROUTE = "/webhooks/stripe"
WEBHOOK_STATUSES = (200, 400, 422, 500, 503)
OUTCOMES = ("applied", "duplicate", "failed", "ignored")
REASONS = ("malformed", "timestamp", "mismatch", "no event", "too large")


def begin() -> None:
    """Shows zeros for what has not happened yet."""
    for outcome in OUTCOMES:
        for event_type in (*HANDLERS, "other"):
            _webhook_events(event_type, outcome)
    _webhook_events("none", "refused")
    for reason in REASONS:
        WEBHOOK_REFUSED.labels(reason)
    for family in ("refund", "dispute"):
        UNKNOWN_STATUSES.labels(family)
    for status in WEBHOOK_STATUSES:
        _requests(WEBHOOK_ROUTE, "POST", status)
    _keep_files()


async def sample(waiting: Callable[[], int], pools: Sequence[Callable[[], Mapping[str, int]]]) -> None:
    """Looks now and then at what changes all the time, and at the files; leaves zeros behind, since they outlive us.

    Dropped log lines are counted here, and not where they are dropped: whatever the process does may write a line.

    Args:
        waiting: how many events wait.
        pools: each says its connections by state, and their `max`.
    """
    dropped = 0
    try:
        while True:
            QUEUE.set(waiting())
            _show_connections([connections() for connections in pools])
            LOG_DROPPED.inc(logs.dropped_lines() - dropped)
            dropped = logs.dropped_lines()
            _keep_files()
            await asyncio.sleep(SAMPLE_INTERVAL_S)
    finally:
        QUEUE.set(0)
        _show_connections([])


def _keep_files() -> None:
    if _FILES is not None:
        _FILES.keep()


def _show_connections(pools: Sequence[Mapping[str, int]]) -> None:
    for state in POOL_STATES:
        POOL.labels(state).set(sum(pool[state] for pool in pools))
    POOL_MAX.set(sum(pool["max"] for pool in pools))


def webhook(event_type: str, outcome: str, duration_s: float) -> None:
    """A signed event was answered. Its type is a label only if it is handled, so that labels stay few."""
    _webhook_events(event_type if event_type in HANDLERS else "other", outcome).inc()
    WEBHOOK_DURATION.observe(duration_s)


def unknown_status(family: str) -> None:
    """An event was applied although its object (refund or dispute) has a status that we do not know."""
    UNKNOWN_STATUSES.labels(family).inc()


def batch_observer() -> Callable[[int, int], None]:
    """What a batcher reports each of its batches to."""
    newest_s: float = newest_event()

    def observe(size: int, newest_applied_s: int) -> None:
        """So many events were written by one statement; the newest that was applied has this `created`."""
        nonlocal newest_s
        BATCHES.observe(size)
        if newest_applied_s > newest_s:
            newest_s = newest_applied_s
            NEWEST_EVENT.set(newest_s)

    return observe


def newest_event() -> float:
    """Stripe's `created` of the newest event this slot has applied, in a former life if not in this one; else 0."""
    [family] = NEWEST_EVENT.collect()
    return family.samples[0].value


def clock_skew(seconds: float) -> None:
    """A valid signature bears a time that is so far behind our clock."""
    CLOCK_SKEW.set(seconds)


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

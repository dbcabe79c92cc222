"""The metrics of an API process. Below supervisord they are kept in files per process slot; the sidecar serves
their sum.

`ApiMetrics` creates them; importing this module changes nothing.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from daemon.ledger.stripe_events import HANDLERS
from daemon.reports.fraud import Level, Name
from daemon.runtime import logging as logs
from daemon.runtime.metrics_files import MetricsFiles

METHODS = ("GET", "POST", "PUT", "HEAD", "OPTIONS")
POOL_STATES = ("used", "idle")
SAMPLE_INTERVAL_S = 1.0  # of what changes all the time; well below the interval at which Prometheus reads

# What alerts count with increase(): it does not see a counter's first step if the counter was not there before.
WEBHOOK_ROUTE = "/webhooks/stripe"
WEBHOOK_STATUSES = (200, 400, 422, 500, 503)
OUTCOMES = ("applied", "duplicate", "failed", "ignored")
REASONS = ("malformed", "timestamp", "mismatch", "no event", "too large")


class ApiMetrics:
    """What an API process counts.

    Args:
        files: where the values are kept; None: only in memory.
    """

    def __init__(self, files: MetricsFiles | None = None) -> None:
        self._keep_files = files.keep if files else lambda: None
        # Within this context manager what is counted is written to the files at its end, in one piece.
        self.written_together = files.written_together if files else nullcontext
        self.registry = CollectorRegistry()
        self._create_webhook_metrics()
        self._create_batch_metrics()
        self._create_fraud_metrics()
        self._create_process_metrics()
        [newest] = self._newest_event.collect()
        # Of the newest event that this slot has applied, in any of its process runs; 0 if none.
        self.newest_event_s = newest.samples[0].value
        # The library's own lookup by labels takes a lock and builds strings, on each event.
        self._events_by = cache(self._events.labels)
        self._requests_by = cache(self._requests.labels)
        self._durations_by = cache(self._durations.labels)

    def _create_webhook_metrics(self) -> None:
        to = self.registry
        self._events = Counter("webhook_events", "Webhooks by type and outcome", ["type", "outcome"], registry=to)
        self._rejected = Counter(
            "webhook_refused", "Bodies that are not a signed event, by reason", ["reason"], registry=to
        )
        self._webhook_duration = Histogram(
            "webhook_duration_seconds", "Time from the arrival of the body to the reply", registry=to
        )
        self._newest_event = Gauge(
            "webhook_newest_event_timestamp_seconds",
            "Stripe's `created` of the newest applied event; 0 means none yet",
            multiprocess_mode="max",
            registry=to,
        )
        self._unknown_statuses = Counter(
            "stripe_unknown_statuses",
            "Applied events whose refund or dispute has a status that this release does not know",
            ["object"],
            registry=to,
        )
        self._clock_skew = Gauge(
            "webhook_clock_skew_seconds",
            "Clock of this host minus the time in the newest valid signature",
            multiprocess_mode="mostrecent",
            registry=to,
        )

    def _create_batch_metrics(self) -> None:
        to = self.registry
        self._batches = Histogram(
            "webhook_batch_events",
            "Events written by one statement",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=to,
        )
        self._queue = Gauge(
            "webhook_queue_events",
            "Events that wait for the statements in flight",
            multiprocess_mode="livesum",
            registry=to,
        )

    def _create_fraud_metrics(self) -> None:
        to = self.registry
        self._attempts = Counter(
            "payment_attempts", "Attempts to pay in applied events, by outcome", ["outcome"], registry=to
        )
        self._attempts_not_counted = Gauge(
            "payment_attempts_not_counted",
            "Counts that signals of fraud do not contain, because there were too many accounts, tickets, hashes or "
            "countries at the same time",
            multiprocess_mode="livesum",
            registry=to,
        )
        self._fraud_signals = Gauge(
            "fraud_signals",
            "Present signals of fraud by kind and level",
            ["signal", "level"],
            multiprocess_mode="mostrecent",
            registry=to,
        )

    def _create_process_metrics(self) -> None:
        to = self.registry
        self._pool = Gauge(
            "db_pool_connections",
            "Connections to PostgreSQL by state",
            ["state"],
            multiprocess_mode="livesum",
            registry=to,
        )
        self._pool_max = Gauge(
            "db_pool_connections_max",
            "Largest possible number of connections to PostgreSQL",
            multiprocess_mode="livesum",
            registry=to,
        )
        self._requests = Counter(
            "http_requests", "Requests by route pattern", ["route", "method", "status"], registry=to
        )
        self._durations = Histogram("http_request_duration_seconds", "Time until the reply", ["route"], registry=to)
        # The sidecar adds its own lines to the same metric.
        dropped = Counter("log_lines_dropped", logs.DROPPED_HELP, ["process"], registry=to)
        self._dropped_lines = dropped.labels("api")

    def begin(self) -> None:
        """Show zeros for what has not happened yet, and write the files."""
        for outcome in OUTCOMES:
            for event_type in (*HANDLERS, "other"):
                self._events_by(event_type, outcome)
        self._events_by("none", "refused")
        for reason in REASONS:
            self._rejected.labels(reason)
        for outcome in ("succeeded", "failed"):
            self._attempts.labels(outcome)
        for family in ("refund", "dispute"):
            self._unknown_statuses.labels(family)
        for status in WEBHOOK_STATUSES:
            self._requests_by(WEBHOOK_ROUTE, "POST", str(status))
        self._keep_files()

    async def sample(self, waiting: Callable[[], int], pools: Sequence[Callable[[], Mapping[str, int]]]) -> None:
        """Read regularly what changes all the time, and check the files; at the end leave zeros in them.

        Dropped log lines are counted here, and not where they are dropped: any part of the process may write a line.

        Args:
            waiting: how many events wait.
            pools: each returns its connections by state, and their `max`.
        """
        dropped = 0
        try:
            while True:
                self._queue.set(waiting())
                self._show_connections([connections() for connections in pools])
                self._dropped_lines.inc(logs.dropped_lines() - dropped)
                dropped = logs.dropped_lines()
                self._keep_files()
                await asyncio.sleep(SAMPLE_INTERVAL_S)
        finally:
            self._queue.set(0)
            self._show_connections([])

    def _show_connections(self, pools: Sequence[Mapping[str, int]]) -> None:
        for state in POOL_STATES:
            self._pool.labels(state).set(sum(pool[state] for pool in pools))
        self._pool_max.set(sum(pool["max"] for pool in pools))

    def event_answered(self, event_type: str, outcome: str, duration_s: float) -> None:
        """Count a signed event. Its type is a label only if it is handled, so that there are few labels."""
        self._events_by(event_type if event_type in HANDLERS else "other", outcome).inc()
        self._webhook_duration.observe(duration_s)

    def unknown_status(self, family: str) -> None:
        """Count an applied event whose object (refund or dispute) has a status that this release does not know."""
        self._unknown_statuses.labels(family).inc()

    def batch_written(self, size: int, newest_s: int) -> None:
        """Count the events that one statement wrote.

        Args:
            newest_s: `created` of the newest of them that was applied; 0 if none was.
        """
        self._batches.observe(size)
        if newest_s > self.newest_event_s:
            self.newest_event_s = newest_s
            self._newest_event.set(newest_s)

    def payment_attempt(self, *, failed: bool) -> None:
        """Count an attempt to pay."""
        self._attempts.labels("failed" if failed else "succeeded").inc()

    def attempts_not_counted(self, count: int) -> None:
        """Show how many counts of attempts are missing in the signals since the process started."""
        self._attempts_not_counted.set(count)

    def fraud_signals(self, names: Iterable[Name], counts: Mapping[tuple[Name, Level], int]) -> None:
        """Show how many signals of these kinds, of each level, there are now."""
        for name in names:
            for level in Level:
                self._fraud_signals.labels(name, level).set(counts.get((name, level), 0))

    def clock_skew(self, seconds: float) -> None:
        """Show how far the time in a valid signature is behind this host's clock."""
        self._clock_skew.set(seconds)

    def body_rejected(self, reason: str) -> None:
        """Count a body that is not a signed event."""
        self._events_by("none", "refused").inc()
        self._rejected.labels(reason).inc()

    def request_answered(self, route: str, method: str, status: int, duration_s: float) -> None:
        """Count a request; `route` is its pattern, never its path."""
        self._requests_by(route, method if method in METHODS else "other", str(status)).inc()
        self._durations_by(route).observe(duration_s)

"""What an API process counts. The files behind these are kept per process slot; the sidecar serves their sum."""

import os

import prometheus_client as prometheus
from prometheus_client import values

from daemon.facts import HANDLERS

# Files by slot and not by pid, so that a restart neither loses a count nor counts it twice. This must happen before
# the first metric is made, and the library reads its folder from the environment too.
if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
    values.ValueClass = values.MultiProcessValue(lambda: os.environ.get("API_SLOT", "0"))  # type: ignore[no-untyped-call]

WEBHOOK_EVENTS = prometheus.Counter("webhook_events", "Webhooks by type and outcome", ["type", "outcome"])
WEBHOOK_DURATION = prometheus.Histogram("webhook_duration_seconds", "From the body's arrival to the reply")
HTTP_REQUESTS = prometheus.Counter("http_requests", "Requests by route pattern", ["route", "method", "status"])
HTTP_DURATION = prometheus.Histogram("http_request_duration_seconds", "Time to a reply", ["route"])


def type_label(event_type: str) -> str:
    """The event's type as a label: one of those handled, or "other", so that labels stay few."""
    return event_type if event_type in HANDLERS else "other"

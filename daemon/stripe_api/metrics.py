"""How many requests to Stripe's API a process makes. It imports no client: a process without a key needs none."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter

OUTCOMES = ("ok", "unavailable", "rejected")


def count_calls(registry: CollectorRegistry) -> Callable[[str], None]:
    """Add the counter to a registry; returns what counts a request, by one of OUTCOMES."""
    calls = Counter("stripe_api_calls", "Requests to Stripe's API by outcome", ["outcome"], registry=registry)
    for outcome in OUTCOMES:
        calls.labels(outcome)
    return lambda outcome: calls.labels(outcome).inc()

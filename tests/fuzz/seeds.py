"""What mutations begin with: the events of random payments, with canaries in every field of a person."""

import random
from typing import Any

from daemon.simulator.scenarios import generate
from daemon.simulator.sender import encode
from daemon.simulator.stripe_objects import Json
from tests.fuzz.mutation import CANARY
from tests.simulator.random_payments import random_scenario

TICKETS = ("story-1", "story-2")
START = 1_760_000_000
LAST_NAMES = ("Allowed", "O'Neill", "太郎", "Müller-Lüdenscheidt")
PERSONAL = ("phone", "customer_phone", "line1", "line2", "city", "postal_code", "state", "description", "receipt_url")


def with_canaries(value: Any, rng: random.Random) -> Any:
    """The same JSON, with a canary in each word of a person that may not be kept."""
    if isinstance(value, list):
        return [with_canaries(inner, rng) for inner in value]
    if not isinstance(value, dict):
        return value
    changed = {key: with_canaries(inner, rng) for key, inner in value.items()}
    for key in ("email", "receipt_email", "customer_email"):
        if changed.get(key):
            changed[key] = f"{CANARY}.{rng.randrange(9)}@secret.example"
    for key in ("name", "customer_name"):
        if changed.get(key):
            changed[key] = f"{CANARY}first {CANARY}middle {rng.choice(LAST_NAMES)}"
    return changed | {key: f"{CANARY} {key}" for key in PERSONAL if changed.get(key)}


def payments(seed: int, count: int, *, longest: int = 24) -> list[list[Json]]:
    """The events of this number of random payments in all of Stripe's API versions, then of some of the demo's."""
    rng = random.Random(seed)
    random_ones = [random_scenario(rng, TICKETS, key=f"{n}", start=START, longest=longest).events for n in range(count)]
    usual = [scenario.events for scenario in generate(seed, count // 4, TICKETS, now=START)]
    return [[with_canaries(event, rng) for event in events] for events in (*random_ones, *usual)]


def bodies(seed: int, count: int) -> list[bytes]:
    """The bodies of webhooks: this number of payments' events, one of each type and shape."""
    by_shape: dict[tuple[str, ...], bytes] = {}
    for event in (event for events in payments(seed, count) for event in events):
        by_shape.setdefault((event["type"], *event["data"]["object"]), encode(event))
    return list(by_shape.values())

"""A world of payments at the fake of Stripe's API, and the ledger that has its events."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from daemon.simulator import scenarios
from daemon.simulator.balance import BalanceTransaction
from daemon.simulator.fake_stripe.fake import TEST_KEY, FakeStripe
from daemon.simulator.stripe_objects import DAY_S
from daemon.stripe_api.client import StripeApi
from daemon.stripe_api.config import StripeApiConfig
from tests.simulator.random_payments import random_scenario

NOW = 1_760_000_000
TICKETS = ["story-1", "story-2"]


def played(seed: int, payments: int) -> list[scenarios.Scenario]:
    """Scenarios of every kind, in several currencies, that ended before NOW."""
    return scenarios.generate(seed, payments, TICKETS, now=NOW)


def random_world(seed: int, payments: int) -> list[scenarios.Scenario]:
    """Random walks of the same mode and account, of whose events any may be missing."""
    rng = random.Random(seed)
    walks = [
        random_scenario(rng, TICKETS, key=f"s{seed}n{number}", start=NOW - rng.randrange(60) * DAY_S)
        for number in range(payments)
    ]
    return [walk for walk in walks if walk.states and not walk.states[0].endpoint.livemode]


def later(fake: FakeStripe, days: int = 20) -> None:
    """Sets the fake's clock so many days after NOW."""
    fake.clock = lambda: NOW + days * DAY_S


def transactions(fake: FakeStripe) -> dict[str, BalanceTransaction]:
    """All balance transactions as the fake has them, by id."""
    fake.world.settle(int(fake.clock()))
    return {each.id: each for each in fake.world.collections["balance_transaction"]}


@asynccontextmanager
async def client_of(fake: FakeStripe) -> AsyncIterator[StripeApi]:
    """A client of the fake whose waits take no time."""
    now_s = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds

    config = StripeApiConfig.from_environ(
        {
            "DATABASE_URL": "postgresql://",
            "STRIPE_API_KEY": TEST_KEY,
            "STRIPE_API_BASE": fake.base_url,
            "STRIPE_LIVEMODE": "false",
        }
    )
    stripe = StripeApi(config, clock=lambda: now_s, sleep=sleep)
    try:
        yield stripe
    finally:
        await stripe.close()

"""A world of Stripe's objects behind the fake API, and a ledger that is compared with it."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from daemon.jobs.object_comparison import Failure
from daemon.jobs.reconcile import Options, Reconciled, Reports, reconcile
from daemon.jobs.runs import RunDependencies
from daemon.ledger.changes import ReceivedEvent
from daemon.ledger.comparison import Difference
from daemon.ledger.recorder import Recorder
from daemon.simulator import sender
from daemon.simulator.fake_stripe.fake import TEST_KEY, FakeStripe
from daemon.simulator.fake_stripe.server import serving
from daemon.simulator.stripe_objects import Json
from daemon.stripe_api.client import StripeApi
from daemon.stripe_api.config import StripeApiConfig
from sql.database import Database


class Clock:
    """A clock that only waits move, so that the rate limit costs a test no time."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        """A wait."""
        self.now_s += seconds


@asynccontextmanager
async def stripe_client(fake: FakeStripe) -> AsyncIterator[StripeApi]:
    """A client of the fake."""
    clock = Clock()
    config = StripeApiConfig.from_environ(
        {
            "DATABASE_URL": "postgresql://nowhere/nothing",
            "STRIPE_API_KEY": TEST_KEY,
            "STRIPE_API_BASE": fake.base_url,
            "STRIPE_LIVEMODE": "false",
        }
    )
    stripe = StripeApi(config, clock=clock, sleep=clock.sleep)
    yield stripe
    await stripe.close()


@asynccontextmanager
async def site_of(fake: FakeStripe, database: Database, hash_key: bytes | None = None) -> AsyncIterator["Site"]:
    """The fake, served, and a ledger that nothing was delivered to yet."""
    async with serving(fake), stripe_client(fake) as stripe:
        yield Site(fake, stripe, database, hash_key)


@dataclass
class Noted(Reports):
    """What a run reported."""

    differences: list[Difference] = field(default_factory=list)
    unknowns: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    pages: int = 0

    def difference(self, difference: Difference) -> None:
        self.differences.append(difference)

    def unknown(self, donation: str) -> None:
        self.unknowns.append(donation)

    def failure(self, failure: Failure) -> None:
        self.failures.append(failure)

    async def progress(self, name: str, found: Reconciled) -> None:
        self.pages += 1


@dataclass
class Site:
    """A ledger, and the API of the account that its events come from."""

    fake: FakeStripe
    stripe: StripeApi
    database: Database
    hash_key: bytes | None = None

    @property
    def deps(self) -> RunDependencies:
        return RunDependencies(
            stripe=self.stripe,
            database=self.database,
            recorder=Recorder(self.database),
            livemode=False,
            hash_key=self.hash_key,
        )

    async def deliver(self, events: Iterable[Json]) -> None:
        """The webhook receives events."""
        received = [
            ReceivedEvent.read(sender.encode(event), livemode=False, hash_key=self.hash_key) for event in events
        ]
        for begin in range(0, len(received), 100):
            await Recorder(self.database).record(received[begin : begin + 100])

    async def reconcile(self, **options: int | bool) -> tuple[Reconciled, Noted]:
        """One run, and what it reported."""
        noted = Noted()
        return await reconcile(self.deps, Options(**options), noted), noted  # type: ignore[arg-type]

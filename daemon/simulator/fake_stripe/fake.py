"""What the fake holds: its keys, a world for each mode and account, and what can be made to go wrong."""

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from daemon.simulator.api_versions import TODAY, Api
from daemon.simulator.balance import DOLLARS
from daemon.simulator.fake_stripe.delivery import RETRY, Delivery
from daemon.simulator.fake_stripe.failures import Failures
from daemon.simulator.scenarios import Scenario
from daemon.simulator.sender import Retry
from daemon.simulator.stripe_objects import Json
from daemon.simulator.world import World

TEST_KEY = "sk_test_fake"
CALLS_KEPT = 10_000


@dataclass(frozen=True)
class Call:
    """A request that was received, and what it was answered."""

    method: str
    path: str
    params: dict[str, str]
    status: int
    account: str | None
    idempotency_key: str | None


class FakeStripe:
    """Stripe's API over a world for each mode and account.

    Args:
        keys: the API keys that are accepted, of either mode.
        api: the account's own API version: that of events, and of replies to requests that name none.
        currency: in which the accounts settle, such as eur.
        clock: Unix seconds.
        retry: how events are delivered again.

    Attributes:
        failures: what can be made to go wrong.
        calls: the last requests, the newest last.
        base_url: where it is reached, once it serves.
        replies: the request and the reply to each API key's idempotency keys.
    """

    def __init__(
        self,
        keys: Iterable[str] = (TEST_KEY,),
        *,
        api: Api = TODAY,
        currency: str = DOLLARS,
        clock: Callable[[], float] = time.time,
        retry: Retry = RETRY,
    ) -> None:
        self.keys = set(keys)
        self.api, self.currency, self.clock = api, currency, clock
        self.failures = Failures()
        self.calls: deque[Call] = deque(maxlen=CALLS_KEPT)
        self.base_url = ""
        self.replies: dict[tuple[str, str], tuple[str, bytes]] = {}
        self.delivery = Delivery(self.failures.lost_events, retry=retry, clock=clock)
        self._worlds: dict[tuple[bool, str | None], World] = {}
        for livemode in (False, True):
            self.world_of(livemode=livemode)

    @property
    def world(self) -> World:
        """The platform's own account in test mode."""
        return self.world_of(livemode=False)

    def world_of(self, *, livemode: bool, account: str | None = None) -> World:
        """The objects of one mode and account; a connected account is added."""
        key = (livemode, account)
        if key not in self._worlds:
            on_events = partial(self._deliver, livemode)
            self._worlds[key] = World(
                livemode=livemode, account=account, api=self.api, currency=self.currency, on_events=on_events
            )
        return self._worlds[key]

    def known_world(self, *, livemode: bool, account: str | None) -> World | None:
        """The objects of one mode and account, or None if the account is not known."""
        return self._worlds.get((livemode, account))

    def world_with(self, id_: str) -> World:
        """The world that has an object with this id. Raises KeyError if none has."""
        for world in self._worlds.values():
            if world.find(id_) is not None:
                return world
        raise KeyError(id_)

    @property
    def now(self) -> int:
        """Unix seconds."""
        return int(self.clock())

    def _deliver(self, livemode: bool, events: list[Json]) -> None:
        """The platform's endpoints receive the events of connected accounts as well."""
        self.delivery.start(events, self.world_of(livemode=livemode).collections["webhook_endpoint"])

    def add(self, scenarios: Iterable[Scenario]) -> None:
        """Adds scenarios that have been played, each to the world of its mode and account."""
        for scenario in scenarios:
            endpoint = scenario.states[0].endpoint
            self.world_of(livemode=endpoint.livemode, account=endpoint.account).add([scenario])

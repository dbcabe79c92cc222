"""A steady load: whole payments, out of order and with duplicates, each event delivered until it is taken."""

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import aiohttp

from daemon.simulator.scenarios import Scenario, generate
from daemon.simulator.sender import encode, sign
from daemon.simulator.stripe_objects import Json

WORKERS = 8
PAUSE_S = 0.05  # the machine shall not be the bottleneck
RETRY_S = (0.1, 0.6)  # Stripe waits for minutes; nothing is promised about that
# An API process that ends closes what has been silent for a second; a client that keeps a connection for less never
# sends into one that is being closed.
KEEP_ALIVE_S = 0.5
NO_REPLY = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """What one request got. Times are monotonic seconds; `idempotent` is None but for a 200."""

    event: str
    began_s: float
    ended_s: float
    status: int
    idempotent: bool | None = None


@dataclass
class Load:
    """Delivers without end; `finish` lets the scenarios that have begun come to their end.

    Args:
        patience_s: how long a client waits for a reply.
        begin: called with each scenario before its events are delivered.
        pause_s: of a worker between two events.
    """

    base_url: str
    secret: str
    tickets: tuple[str, ...]
    seed: int
    patience_s: float
    begin: Callable[[Scenario], None] = lambda _scenario: None
    pause_s: float = PAUSE_S
    scenarios: list[Scenario] = field(default_factory=list)  # those begun
    replies: list[Reply] = field(default_factory=list)
    _finishing: bool = False

    async def run(self) -> None:
        """Returns when `finish` was called and every event has been taken."""
        timeout = aiohttp.ClientTimeout(total=self.patience_s)
        endless = self._endless()
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S)
        async with (
            aiohttp.ClientSession(timeout=timeout, connector=connector) as http,
            asyncio.TaskGroup() as workers,
        ):
            for number in range(WORKERS):
                workers.create_task(self._work(http, endless, random.Random(f"{self.seed} worker {number}")))

    def finish(self) -> None:
        """No scenario is begun any more."""
        self._finishing = True

    def _endless(self) -> Iterator[Scenario]:
        """Scenarios of which no two are the same."""
        number = 0
        while True:
            yield from generate(self.seed * 1_000_000 + number, 20, self.tickets, now=int(time.time()))
            number += 1

    async def _work(self, http: aiohttp.ClientSession, endless: Iterator[Scenario], rng: random.Random) -> None:
        while not self._finishing:
            scenario = next(endless)
            self.scenarios.append(scenario)
            self.begin(scenario)
            for event in rng.sample(scenario.events, len(scenario.events)):
                copies = 2 if rng.random() < 0.1 else 1
                await asyncio.gather(*(self._deliver(http, event, rng) for _ in range(copies)))
                if rng.random() < 0.1:
                    await self._deliver(http, event, rng)

    async def _deliver(self, http: aiohttp.ClientSession, event: Json, rng: random.Random) -> None:
        """One event, over and over until it is taken."""
        body = encode(event)
        while True:
            reply = await self._post(http, event["id"], body)
            self.replies.append(reply)
            if reply.status == 200:
                await asyncio.sleep(self.pause_s)
                return
            await asyncio.sleep(rng.uniform(*RETRY_S))

    async def _post(self, http: aiohttp.ClientSession, event: str, body: bytes) -> Reply:
        headers = {"Stripe-Signature": sign(body, self.secret, int(time.time()))}
        began_s = time.monotonic()
        try:
            async with http.post(f"{self.base_url}/webhooks/stripe", data=body, headers=headers) as response:
                said = await response.json(content_type=None)
                idempotent = said.get("idempotent") if response.status == 200 else None
                return Reply(event, began_s, time.monotonic(), response.status, idempotent)
        except (aiohttp.ClientError, TimeoutError, OSError):
            return Reply(event, began_s, time.monotonic(), NO_REPLY)

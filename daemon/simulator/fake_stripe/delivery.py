"""The delivery of events to webhook endpoints: signed, and repeated until they are accepted, as Stripe does.

Source: https://docs.stripe.com/webhooks#retries
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Set
from contextlib import asynccontextmanager

import aiohttp

from daemon.simulator.fake_stripe.webhook_endpoints import WebhookEndpoint
from daemon.simulator.sender import REPLY_TIMEOUT_S, Retry, encode, post
from daemon.simulator.stripe_objects import Json

# Stripe repeats for three days; a trial is over in an hour.
RETRY = Retry(attempts=12, delay_s=1.0, longest_delay_s=300.0)
CONNECTIONS = 8


class Delivery:
    """Deliveries under way.

    Args:
        lost: ids or types of events that are not delivered; it may change.
    """

    def __init__(
        self,
        lost: Set[str] = frozenset(),
        *,
        retry: Retry = RETRY,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._lost, self._retry, self._clock, self._sleep = lost, retry, clock, sleep
        self._http: aiohttp.ClientSession | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Delivers until the end of the context; what is not accepted by then is given up."""
        timeout = aiohttp.ClientTimeout(total=REPLY_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=CONNECTIONS)) as http:
            self._http = http
            try:
                yield
            finally:
                self._http = None
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    def start(self, events: Iterable[Json], endpoints: Iterable[WebhookEndpoint]) -> None:
        """Begins to deliver events to every endpoint that receives them. Without `running` they are only logged."""
        if self._http is None:
            return
        for event, endpoint in itertools.product(events, endpoints):
            if endpoint.receives(event) and not self._lost & {event["id"], event["type"]}:
                task = asyncio.create_task(self._deliver(self._http, encode(event), endpoint))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def finish(self) -> None:
        """Waits until every delivery that has begun is accepted or given up."""
        while self._tasks:
            await asyncio.gather(*self._tasks)

    async def _deliver(self, http: aiohttp.ClientSession, body: bytes, endpoint: WebhookEndpoint) -> None:
        for attempt in range(1, self._retry.attempts + 1):
            status, retry_after, _ = await post(http, endpoint.url, body, endpoint.secret, self._clock())
            if 200 <= status < 300 or attempt == self._retry.attempts:
                return
            await self._sleep(self._retry.wait_s(attempt, retry_after))

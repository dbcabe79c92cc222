"""Signed deliveries at Stripe's rate, and health checks: how they are answered, whatever other clients do meanwhile."""

import asyncio
import ssl
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import aiohttp

from daemon.simulator import sender
from tests.bench.machine import SECRET
from tests.support.tls import client_context

PER_S = 20
HEALTH_PER_S = 20
TIMEOUT_S = 10.0
# Addresses that no flood comes from. Each monitor checks twice a second.
STRIPE_ADDRESS = "127.0.0.2"
MONITOR_ADDRESSES = [f"127.0.0.{number}" for number in range(3, 13)]


@dataclass
class Seen:
    """Replies by status (0: none), and the seconds that each took."""

    replies: Counter[int] = field(default_factory=Counter)
    took_s: list[float] = field(default_factory=list)

    def note(self, status: int, took_s: float) -> None:
        """Counts a reply."""
        self.replies[status] += 1
        self.took_s.append(took_s)

    @property
    def share_ok(self) -> float:
        """The share that was answered 200."""
        return self.replies[200] / self.replies.total()

    @property
    def p99_ms(self) -> float:
        """The time that 99 of 100 did not exceed, in milliseconds."""
        took_s = sorted(self.took_s)
        return took_s[min(int(len(took_s) * 0.99), len(took_s) - 1)] * 1e3


@dataclass(frozen=True)
class Watched:
    """What was seen of deliveries and health checks."""

    deliveries: Seen = field(default_factory=Seen)
    health: Seen = field(default_factory=Seen)


def watch(url: str, bodies: Sequence[bytes], *, per_s: int = PER_S) -> Watched:
    """Delivers the bodies at that rate, each over a new connection, and checks health meanwhile.

    Monitors keep their connections: what TLS costs this process is then not in the times of health checks.
    """
    return asyncio.run(_watch(url, bodies, per_s))


async def _watch(url: str, bodies: Sequence[bytes], per_s: int) -> Watched:
    watched = Watched()
    health_checks = len(bodies) * HEALTH_PER_S // per_s
    async with AsyncExitStack() as stack:
        context = client_context()
        monitors = [await stack.enter_async_context(_session(address, context)) for address in MONITOR_ADDRESSES]
        began_s = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number, body in enumerate(bodies):
                group.create_task(_deliver(context, url, body, began_s + number / per_s, watched.deliveries))
            for number in range(health_checks):
                monitor = monitors[number % len(monitors)]
                group.create_task(_check_health(monitor, url, began_s + number / HEALTH_PER_S, watched.health))
    return watched


def _session(address: str, context: ssl.SSLContext) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(local_addr=(address, 0), ssl=context, limit=0)
    return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))


async def _deliver(context: ssl.SSLContext, url: str, body: bytes, at_s: float, seen: Seen) -> None:
    await asyncio.sleep(at_s - time.monotonic())
    headers = {"Stripe-Signature": sender.sign(body, SECRET, int(time.time()))}
    # The end of a session waits for the end of its connection. With `force_close` a connection may outlive the loop.
    async with _session(STRIPE_ADDRESS, context) as stripe:
        await _note(stripe.post(f"{url}/webhooks/stripe", data=body, headers=headers), seen)


async def _check_health(session: aiohttp.ClientSession, url: str, at_s: float, seen: Seen) -> None:
    await asyncio.sleep(at_s - time.monotonic())
    await _note(session.get(f"{url}/health/db"), seen)


async def _note(request: aiohttp.client._RequestContextManager, seen: Seen) -> None:
    began_s = time.monotonic()
    status = 0
    try:
        async with request as reply:
            await reply.read()
            status = reply.status
    except (aiohttp.ClientError, TimeoutError):
        status = 0
    seen.note(status, time.monotonic() - began_s)

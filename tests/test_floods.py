"""Floods at an API process on its default settings, without a proxy: Stripe's deliveries and health checks go on, and
memory stays within its limits.
"""

import asyncio
import itertools
import json
import resource
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector

from daemon.simulator.player import sign
from tests import floods
from tests.bench import fill
from tests.bench.machine import API, SECRET, Site, query, resident_mb, site, stored
from tests.bench.stream import Pool, Stream
from tests.conftest import Server

CLIENTS = 300
SECONDS = 3.0
EVERY_S = 0.05  # 20 deliveries a second: ten times what Stripe sends to most
TAKEN = 0.99
SLOWEST_S = 1.0  # of 99 % of the deliveries, on two cores that have nothing else to do
BUSY_MACHINE = 5  # times as slow is one that has
# 32 MiB of requests, 32 MiB of replies, 25 kB per connection, and as much again for the allocator.
GROWTH_MB = 150


@dataclass
class Seen:
    """What became of the deliveries and health checks."""

    deliveries: Counter[int] = field(default_factory=Counter)
    health: Counter[int] = field(default_factory=Counter)
    took_s: list[float] = field(default_factory=list)


@pytest.fixture(scope="module")
def api(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An API process with a ledger page of some hundred kilobytes."""
    folder = tmp_path_factory.mktemp("floods")
    with ExitStack() as stack:
        database = stack.enter_context(stored(server, "floods", folder))
        query(database.url, "INSERT INTO recording_tickets (id, title) VALUES (%s, '')", [floods.TICKET])
        fill.record(database, Stream(Pool(payments=100), [floods.TICKET]).take(8000))
        yield stack.enter_context(site(API, database, folder))


@pytest.mark.parametrize("name", floods.FLOODS)
async def test_deliveries_beside_a_flood(api: Site, name: str) -> None:
    """Beside 300 clients that do nothing else, 99 % of the signed deliveries are answered 200 within a second and every
    health check is answered; the process's memory stays within its limits.
    """
    before_mb = resident_mb(api)
    forget_peak(api)
    async with floods.flood(name, api.port, CLIENTS):
        await asyncio.sleep(1.5)  # all of them are connected by then
        seen = await ask(api)
    print(name, seen.deliveries, seen.health, f"p99 {slowest(seen):.2f} s", f"{before_mb:.0f} -> {peak_mb(api):.0f} MB")
    assert seen.deliveries[200] >= TAKEN * seen.deliveries.total()
    assert seen.health.keys() == {200}
    assert slowest(seen) < SLOWEST_S * BUSY_MACHINE
    assert peak_mb(api) < before_mb + GROWTH_MB


async def ask(api: Site) -> Seen:
    """Deliveries and health checks at their times, each on a connection of its own, whatever became of earlier ones."""
    seen = Seen()
    async with (
        ClientSession(connector=TCPConnector(force_close=True, limit=0), timeout=ClientTimeout(10)) as session,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(round(SECONDS / EVERY_S)):
            group.create_task(deliver(session, api, seen))
            group.create_task(check_health(session, api, seen))
            await asyncio.sleep(EVERY_S)
    return seen


_numbers = itertools.count()


async def deliver(session: ClientSession, api: Site, seen: Seen) -> None:
    """An event of a type that changes nothing."""
    event = {
        "id": f"evt_flood{next(_numbers)}",
        "object": "event",
        "type": "customer.created",
        "created": 1_760_000_000,
    }
    body = json.dumps({**event, "livemode": False, "data": {"object": {}}}).encode()
    headers = {"Stripe-Signature": sign(body, SECRET, int(time.time()))}
    began_s = time.monotonic()
    try:
        async with session.post(f"{api.url}/webhooks/stripe", data=body, headers=headers) as reply:
            seen.deliveries[reply.status] += 1
    except (ClientError, TimeoutError):
        seen.deliveries[0] += 1
    seen.took_s.append(time.monotonic() - began_s)


async def check_health(session: ClientSession, api: Site, seen: Seen) -> None:
    """GET /health/db."""
    try:
        async with session.get(f"{api.url}/health/db") as reply:
            seen.health[reply.status] += 1
    except (ClientError, TimeoutError):
        seen.health[0] += 1


def slowest(seen: Seen) -> float:
    """The time within which 99 % of the deliveries were answered."""
    return sorted(seen.took_s)[int(len(seen.took_s) * TAKEN) - 1]


def forget_peak(api: Site) -> None:
    """From now on the peak of its resident memory is a new one (proc(5), clear_refs)."""
    [pid] = api.pids
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_mb(api: Site) -> float:
    """The most that the process has held in memory since."""
    [pid] = api.pids
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


@pytest.fixture(autouse=True, scope="module")
def many_descriptors() -> Iterator[None]:
    """The clients' sockets are ours."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(before[1], 4096) if before[1] > 0 else 4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)

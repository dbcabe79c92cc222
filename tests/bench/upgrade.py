"""Rolling upgrades under load: a release serves, today's files replace its own, and each process restarts before the
schema is migrated or after it.

`make upgrade-trial`. Exit status 1 if a reply was no 2xx, an event is missing, or `donationd verify` finds a
difference.
"""

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp

from daemon.simulator import sender
from tests.bench.deliveries import Seen
from tests.bench.export import shown
from tests.bench.machine import SECRET, query
from tests.bench.stream import Pool, Stream
from tests.chaos.load import KEEP_ALIVE_S, NO_REPLY
from tests.support.guard import guarded
from tests.support.instance import Instance, instance_of_its_own
from tests.support.postgres import running_server
from tests.support.previous_release import PREVIOUS, PUBLISHED, replace_by_todays, unpack

EVENTS_PER_S = 300
READS_PER_S = 20
AFTER_STEP_S = 3  # of load
SHOWN_LINES = 3  # of what a command prints
LONGEST_S = 120  # of the whole load
TIMEOUT_S = 20.0
TICKET = "story-1"

# From which release, and the commands of today's files: an older schema is migrated first.
UPGRADES = (
    (PUBLISHED, ("migrate", "reload", "rebuild")),
    (PREVIOUS, ("reload", "migrate", "rebuild")),
)

Request = Callable[[aiohttp.ClientSession, float], Coroutine[Any, Any, None]]


def main() -> int:
    """Prints how requests were answered during each step of each upgrade. Returns the exit status."""
    with guarded():
        return max([trial(commit, commands) for commit, commands in UPGRADES])


def trial(commit: str, commands: Sequence[str]) -> int:
    """Upgrades an instance of a release, with a new database, by these commands. Returns the exit status."""
    print(f"from {commit[:7]}: {', '.join(commands)}", flush=True)
    with tempfile.TemporaryDirectory() as name, running_server({}) as server:
        release = unpack(commit, Path(name) / "release")
        url = server.url.format(name="postgres")
        environ = {
            "DATABASE_URL": url,
            "STRIPE_WEBHOOK_SECRET": SECRET,
            "STRIPE_LIVEMODE": "false",
            "HOST": "127.0.0.1",
            "STRIPE_API_BASE": "",  # the published release refuses it
        }
        with instance_of_its_own(environ, release) as instance:
            run(instance, "migrate")
            run(instance, "tickets", "add", TICKET)
            instance.start()
            return asyncio.run(upgrade(instance, url, commands))


async def upgrade(instance: Instance, url: str, commands: Sequence[str]) -> int:
    """Upgrades the instance under load, then verifies the ledger. Returns the exit status."""
    before = count_events(url)
    load = Load(instance.api, iter(Stream(Pool(), [TICKET]).take(LONGEST_S * EVENTS_PER_S)))
    async with asyncio.TaskGroup() as group:
        group.create_task(load.deliver())
        group.create_task(load.read())
        await step(load, "the former release serves")
        await asyncio.to_thread(replace_by_todays, instance.release)
        for command in commands:
            await step(load, f"donationd {command}", instance, command)
        await step(load, "the new release serves")
        load.stopped = True
    recorded = count_events(url) - before
    print(f"{load.events} events delivered, {load.failed} replies other than 2xx, {recorded} events recorded")
    print(await asyncio.to_thread(run, instance, "verify"))
    return int(load.failed > 0 or recorded != load.events)


def count_events(url: str) -> int:
    """The number of events in the database."""
    return int(str(query(url, "SELECT count(*) FROM stripe_events")[0][0]))


async def step(load: "Load", name: str, instance: Instance | None = None, *words: str) -> None:
    """Runs a command of the release, and prints how requests were answered then and shortly afterwards."""
    load.seen = Seen()
    begun_s = time.monotonic()
    if instance:
        print(*(await asyncio.to_thread(run, instance, *words)).splitlines()[-SHOWN_LINES:], sep="\n", flush=True)
    took_s = time.monotonic() - begun_s
    await asyncio.sleep(AFTER_STEP_S)
    print(f"{name}, {took_s:.1f} s: {shown(load.seen)}, slowest {max(load.seen.took_s) * 1e3:.0f} ms", flush=True)


def run(instance: Instance, *words: str) -> str:
    """What a command of the instance's release prints; it must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "daemon.cli.main", *words],
        cwd=instance.release,
        env=instance.given_environ,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"donationd {' '.join(words)}: {done.stdout}{done.stderr}")
    return done.stdout.strip()


@dataclass
class Load:
    """Deliveries of new events and reads of a total, at a fixed rate whatever the replies are, until `stopped`."""

    base_url: str
    bodies: Iterator[bytes]
    seen: Seen = field(default_factory=Seen)
    events: int = 0
    failed: int = 0  # replies other than 2xx
    stopped: bool = False

    async def deliver(self) -> None:
        """Signed events, over connections that are kept."""

        async def post(http: aiohttp.ClientSession, due_s: float) -> None:
            self.events += 1
            body = next(self.bodies)
            headers = {"Stripe-Signature": sender.sign(body, SECRET, int(time.time()))}
            await self._note(http.post(f"{self.base_url}/webhooks/stripe", data=body, headers=headers), due_s)

        await self._repeat(post, EVENTS_PER_S, aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S))

    async def read(self) -> None:
        """Totals, each over a new connection."""

        async def get(http: aiohttp.ClientSession, due_s: float) -> None:
            await self._note(http.get(f"{self.base_url}/api/tickets/{TICKET}/donations/total"), due_s)

        await self._repeat(get, READS_PER_S, aiohttp.TCPConnector(limit=0, force_close=True))

    async def _repeat(self, request: Request, per_s: int, connector: aiohttp.TCPConnector) -> None:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with (
            aiohttp.ClientSession(timeout=timeout, connector=connector) as http,
            asyncio.TaskGroup() as requests,
        ):
            due_s = time.monotonic()
            while not self.stopped:
                due_s += 1 / per_s
                await asyncio.sleep(due_s - time.monotonic())
                requests.create_task(request(http, due_s))

    async def _note(self, request: AbstractAsyncContextManager[aiohttp.ClientResponse], due_s: float) -> None:
        try:
            async with request as reply:
                await reply.read()
                status = reply.status
        except (aiohttp.ClientError, TimeoutError):
            status = NO_REPLY
        self.seen.note(status, time.monotonic() - due_s)
        self.failed += not HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES


if __name__ == "__main__":
    sys.exit(main())

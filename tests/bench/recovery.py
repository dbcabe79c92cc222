"""What it takes to replay and to reconcile a large account: time, calls of Stripe's API, memory.

`make bench-recovery`; OBJECTS=20000 does less. The fake of Stripe's API runs in this process, the commands are measured
in processes of their own. The client makes at most 20 calls a second.
"""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from daemon.simulator.copies import MARKER
from daemon.simulator.fake_stripe.fake import TEST_KEY, FakeStripe
from daemon.simulator.fake_stripe.server import serving
from daemon.simulator.scenarios import generate
from sql import migrate
from tests.bench.machine import Site, peak_mb, query
from tests.support.guard import base_environ, guarded
from tests.support.postgres import running_server

OBJECTS = int(os.environ.get("OBJECTS", "100000"))
READ = ("subscription", "invoice", "checkout.session", "payment_intent", "charge", "refund", "dispute")
ORIGINALS = 100
RUNS = (
    ("an empty ledger from all objects", ("reconcile",)),
    ("the same again: nothing differs", ("reconcile",)),
    ("all events", ("replay",)),
)


async def measured(fake: FakeStripe, words: Sequence[str], url: str) -> str:
    """Runs a command. Returns its time, calls and memory."""
    fake.calls.clear()
    environ = {"DATABASE_URL": url, "STRIPE_API_KEY": TEST_KEY, "STRIPE_API_BASE": fake.base_url}
    begun_s = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("donationd"),
        *words,
        env=base_environ() | environ | {"STRIPE_LIVEMODE": "false", "ALLOW_LOGGED_STATEMENTS": "true"},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    peaks = [peak async for peak in memory_mib(process)]
    said = (await process.stderr.read()).decode()
    assert process.returncode == 0, said
    calls = len(fake.calls)
    return f"{time.monotonic() - begun_s:6.1f} s {calls:6} calls {max(peaks):6.1f} MiB"


async def memory_mib(process: asyncio.subprocess.Process) -> AsyncIterator[float]:
    """The largest memory of a process so far, until it has ended."""
    while process.returncode is None:
        try:
            yield peak_mb(Site(0, (process.pid,)))
        except (OSError, IndexError):  # it has ended
            return
        await asyncio.sleep(0.1)


async def main() -> None:
    originals = generate(3, ORIGINALS, ["story-1", "story-2"], now=int(time.time()), id_end=MARKER)
    fake = FakeStripe()
    fake.add(originals)
    objects = sum(len(fake.world.collections[name]) for name in READ)
    fake = FakeStripe()
    fake.world.add_copies(originals, OBJECTS // objects)
    objects = sum(len(fake.world.collections[name]) for name in READ)
    events = len(fake.world.collections["event"])
    print(f"{objects} objects, {events} events", flush=True)
    with running_server({}) as server:
        url = server.url.format(name="postgres")
        migrate.apply(url)
        async with serving(fake):
            for name, words in RUNS:
                print(f"{name:<50} {await measured(fake, words, url)}", flush=True)
        [(donations,)] = query(url, "SELECT count(*) FROM stripe_attributions")
        print(f"{donations} donations", flush=True)


if __name__ == "__main__":
    with guarded():
        asyncio.run(main())

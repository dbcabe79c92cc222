"""What webhooks notice while the jobs process works as hard as it can, because the ledger has nothing of the account.

`make bench-jobs`; OBJECTS=2000 has it work for less long. The fake of Stripe's API has a process of its own.
"""

import asyncio
import os
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from daemon.simulator.fake_stripe.fake import TEST_KEY
from tests.bench.export import PER_S, deliver, shown
from tests.bench.machine import API, query, site, stored
from tests.bench.stream import Pool, Stream
from tests.support.guard import guarded
from tests.support.postgres import running_server
from tests.support.process import Process

OBJECTS = int(os.environ.get("OBJECTS", "20000"))
SECONDS = 30
ORIGINALS = 100
FAKE = """
import asyncio, sys, time
from daemon.simulator.copies import MARKER
from daemon.simulator.fake_stripe.fake import FakeStripe
from daemon.simulator.fake_stripe.server import serving
from daemon.simulator.scenarios import generate

async def main(payments, originals):
    fake = FakeStripe()
    scenarios = generate(3, originals, ["story-1"], now=int(time.time()), id_end=MARKER)
    fake.world.add_copies(scenarios, payments // originals)
    async with serving(fake):
        print(fake.base_url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
"""
WRITTEN = "SELECT count(*) FROM stripe_attributions WHERE id ~ '[0-9]{8}$'"  # the copies of the fake


def main() -> None:
    """Prints the figures."""
    with (
        guarded(),
        tempfile.TemporaryDirectory() as name,
        running_server({}) as server,
        stored(server, "jobs", Path(name)) as database,
        site(API, database, Path(name)) as api,
        Process([sys.executable, "-c", FAKE, str(OBJECTS), str(ORIGINALS)], None) as fake,
    ):
        assert fake.stdout is not None
        base = fake.stdout.readline().strip()
        bodies = iter(Stream(Pool(payments=5000), ["story-1"]).take(3 * SECONDS * PER_S))
        print(f"no jobs        {deliveries(api.url, bodies)}", flush=True)
        environ = {
            "DATABASE_URL": database.url,
            "READINESS_SOCKET": str(database.readiness),
            "STRIPE_LIVEMODE": "false",
            "STRIPE_API_KEY": TEST_KEY,
            "STRIPE_API_BASE": base,
        }
        with Process([sys.executable, "-m", "daemon.jobs"], Path(name) / "jobs.log", environ) as jobs:
            jobs.wait_for("This host runs the jobs")
            print(f"jobs at work   {deliveries(api.url, bodies)}", flush=True)
            [(written,)] = query(database.url, WRITTEN)
            print(f"the jobs wrote {written} donations meanwhile", flush=True)
        print(f"no jobs        {deliveries(api.url, bodies)}", flush=True)


def deliveries(url: str, bodies: Iterator[bytes]) -> str:
    """How PER_S deliveries a second are answered for a while."""
    return shown(asyncio.run(deliver(url, list(islice(bodies, SECONDS * PER_S)), until=None)))


if __name__ == "__main__":
    main()

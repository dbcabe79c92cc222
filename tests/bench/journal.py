"""What the journal adds to the WAL: whole payments recorded with it and without it, in turns, batch by batch."""

import asyncio
import time
from contextlib import nullcontext
from itertools import chain, zip_longest

from daemon.ledger.recorder import Recorder
from daemon.simulator import scenarios, sender
from sql.database import Database
from tests.bench.fill import batches, entry
from tests.bench.machine import Stored, query
from tests.support.former_release import WithoutJournal, no_entries

BATCH = 64
TICKETS = [f"ticket_{number:04}" for number in range(1000)]


def wal(stored: Stored, payments: int) -> tuple[float, float]:
    """Records as many payments with the journal as others without it. Returns both bytes of WAL per event."""
    return asyncio.run(_wal(stored.url, _bodies(payments, seed=1), _bodies(payments, seed=2)))


def _bodies(payments: int, seed: int) -> list[bytes]:
    """All events of some payments: the first ones of all, then the second ones, so that none share a batch."""
    events = [of.events for of in scenarios.generate(seed, payments, TICKETS, now=int(time.time()))]
    return [sender.encode(event) for event in chain(*zip_longest(*events)) if event]


async def _wal(url: str, with_it: list[bytes], without: list[bytes]) -> tuple[float, float]:
    ours, others = _open(Database, url), _open(WithoutJournal, url)
    written = {ours: 0.0, others: 0.0}
    try:
        for pair in zip_longest(*(batches(map(entry, bodies), BATCH) for bodies in (with_it, without)), fillvalue=[]):
            for batch, database in zip(pair, (ours, others), strict=True):
                [(begun,)] = query(url, "SELECT pg_current_wal_insert_lsn()")
                with no_entries() if database is others else nullcontext():
                    await Recorder(database).record(batch)
                [(grown,)] = query(url, "SELECT pg_current_wal_insert_lsn() - %s", [begun])
                written[database] += float(str(grown))
    finally:
        await ours.close()
        await others.close()
    return written[ours] / len(with_it), written[others] / len(without)


def _open(kind: type[Database], url: str) -> Database:
    return kind(url, pool_size=1, statement_timeout_s=60, connect_timeout_s=5, application_name="donationd bench")

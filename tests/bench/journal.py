"""What the journal adds to the WAL: the same work recorded with it and without it, in turns, batch by batch."""

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext

from daemon.ledger.recorder import Recorder
from sql.database import Database
from tests.bench.fill import batches, entry
from tests.bench.machine import Stored, query
from tests.support.former_release import WithoutJournal, no_entries

BATCH = 64


def wal(stored: Stored, with_it: Sequence[bytes], without: Sequence[bytes], primed: int) -> tuple[float, float]:
    """Records events with the journal, and as many of other payments without it. Returns bytes of WAL per event.

    Args:
        primed: how many events of each are not counted: the first ones are mostly of payments that began before.
    """
    return asyncio.run(_wal(stored.url, with_it, without, primed))


async def _wal(url: str, with_it: Sequence[bytes], without: Sequence[bytes], primed: int) -> tuple[float, float]:
    ours, others = _open(Database, url), _open(WithoutJournal, url)
    written = {ours: 0.0, others: 0.0}
    try:
        pairs = zip(*(batches(map(entry, bodies), BATCH) for bodies in (with_it, without)), strict=True)
        for number, pair in enumerate(pairs):
            for batch, database in zip(pair, (ours, others), strict=True):
                [(begun,)] = query(url, "SELECT pg_current_wal_insert_lsn()")
                with no_entries() if database is others else nullcontext():
                    await Recorder(database).record(batch)
                [(grown,)] = query(url, "SELECT pg_current_wal_insert_lsn() - %s", [begun])
                written[database] += float(str(grown)) if number * BATCH >= primed else 0
    finally:
        await ours.close()
        await others.close()
    return written[ours] / (len(with_it) - primed), written[others] / (len(without) - primed)


def _open(kind: type[Database], url: str) -> Database:
    return kind(url, pool_size=1, statement_timeout_s=60, connect_timeout_s=5, application_name="donationd bench")

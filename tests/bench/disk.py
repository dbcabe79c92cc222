"""What an event costs on disk and in the WAL: our events table against the seed's, row for row.

Ours is written by the real statement, with events that change no donation, so that nothing else is written.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psycopg2
from psycopg2.extras import execute_values

from daemon.ledger.changes import ReceivedEvent
from daemon.ledger.recorder import Recorder
from tests.bench.fill import batches, entry, open_database
from tests.bench.machine import Stored, query

SEED_SCHEMA = Path(__file__).with_name("seed_events.sql").read_text()
BATCH = 64  # events to a transaction, on both sides
SIZE = """
SELECT coalesce(sum(pg_relation_size(c.oid)), 0)::bigint
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'public' AND c.relkind IN ('r', 'i') AND c.relname LIKE 'stripe\\_events%%'"""


@dataclass(frozen=True)
class Cost:
    """Bytes per event."""

    disk: float
    wal: float


def ours(database: Stored, bodies: Sequence[bytes]) -> Cost:
    """Records the events through the ledger as ones that change nothing."""

    def write(entries: Iterable[ReceivedEvent]) -> None:
        asyncio.run(_record(database, entries))

    return _cost(database.url, bodies, write)


async def _record(stored: Stored, entries: Iterable[ReceivedEvent]) -> None:
    database = open_database(stored)
    recorder = Recorder(database)
    try:
        for batch in batches(entries, BATCH):
            await recorder.record(batch)
    finally:
        await database.close()


def seeds(url: str, bodies: Sequence[bytes]) -> Cost:
    """Makes the seed's table in an empty database and inserts the events."""
    query(url, f"DROP TABLE IF EXISTS stripe_events; {SEED_SCHEMA}")

    def write(entries: Iterable[ReceivedEvent]) -> None:
        with closing(psycopg2.connect(url)) as connection:
            for batch in batches(entries, BATCH):
                with connection, connection.cursor() as cursor:
                    execute_values(
                        cursor,
                        'INSERT INTO stripe_events (id, "stripeEventId", type, "stripeCreated", livemode) VALUES %s',
                        [(e.event.id, e.event.type, e.event.created, e.event.livemode) for e in batch],
                        "(gen_random_uuid(), %s, %s, to_timestamp(%s), %s)",
                    )

    return _cost(url, bodies, write)


def _cost(url: str, bodies: Sequence[bytes], write: Callable[[Iterable[ReceivedEvent]], None]) -> Cost:
    inert = [ReceivedEvent(msgspec.structs.replace(entry(body).event, facts=None)) for body in bodies]
    [(size, wal)] = query(url, f"SELECT ({SIZE}), pg_current_wal_insert_lsn()")
    write(inert)
    [(grown, written)] = query(url, f"SELECT ({SIZE}) - %s, pg_current_wal_insert_lsn() - %s", [size, wal])
    assert isinstance(grown, int)
    return Cost(grown / len(inert), float(str(written)) / len(inert))

"""What is in the databases before anything is measured: recorded through the real ledger, then multiplied in SQL."""

import asyncio
import itertools
from collections.abc import Iterable, Iterator

from daemon.ledger import stripe_events
from daemon.ledger.changes import ReceivedEvent
from daemon.ledger.recorder import Recorder
from sql.database import Database
from tests.bench.machine import SHARE, Stored, query

EVENTS = 5_000_000 // SHARE
DONATIONS = 1_000_000 // SHARE
RECORDED = 20_000  # events, before they are multiplied
TABLES = ("stripe_events", "stripe_attributions", "stripe_objects")
BATCH = 256

# A new id for a copy: as random as Stripe's, and the same wherever the old one is named.
COPY_ID = """
CREATE FUNCTION copy_id(id text, n int) RETURNS text IMMUTABLE STRICT PARALLEL SAFE LANGUAGE sql RETURN
    split_part(id, '_', 1) || '_' || left(translate(encode(sha256((n || id)::bytea), 'base64'), '+/', 'ab'), 24)"""

# How each table's columns are copied, but for those that stay as they are.
COPIED = {
    "stripe_events": {"id": "copy_id(t.id, n)"},
    "stripe_objects": {"id": "copy_id(t.id, n)", "root": "copy_id(t.root, n)"},
    "stripe_attributions": {
        "id": "copy_id(t.id, n)",
        "root": "copy_id(t.root, n)",
        "session_id": "copy_id(t.session_id, n)",
        "charge_id": "copy_id(t.charge_id, n)",
        "created_at": "t.created_at - n * interval '5 minutes'",
        "paid_at": "t.paid_at - n * interval '5 minutes'",
    },
}


def record(database: Stored, bodies: Iterable[bytes]) -> None:
    """Records events through the ledger, in large batches."""
    asyncio.run(_record(database, bodies))


async def _record(stored: Stored, bodies: Iterable[bytes]) -> None:
    database = open_database(stored)
    recorder = Recorder(database)
    try:
        for batch in batches((entry(body) for body in bodies), BATCH):
            await recorder.record(batch)
    finally:
        await database.close()


def open_database(stored: Stored) -> Database:
    """A connection of our own, through the project's driver."""
    return Database(
        stored.url, pool_size=1, statement_timeout_s=60, connect_timeout_s=5, application_name="donationd bench"
    )


def entry(body: bytes) -> ReceivedEvent:
    """An event as the webhook hands it to the ledger."""
    return ReceivedEvent(stripe_events.read(body, livemode=False, hash_key=None))


def batches(entries: Iterable[ReceivedEvent], size: int) -> Iterator[list[ReceivedEvent]]:
    """The entries in lists of `size`."""
    rest = iter(entries)
    while batch := list(itertools.islice(rest, size)):
        yield batch


def empty(database: Stored) -> None:
    """Takes every event and donation away."""
    query(database.url, f"TRUNCATE {', '.join(TABLES)}, ticket_totals, ledger_entries CASCADE")


def settle(database: Stored) -> None:
    """Leaves the tables as they are after the first minutes: statistics known, nothing to clean up."""
    query(database.url, "VACUUM (ANALYZE)")


def multiply(database: Stored) -> None:
    """Makes EVENTS and DONATIONS of what is recorded, indexes and all.

    `ticket_totals` stays as it is: reading it costs the same whatever the figures.
    """
    query(database.url, COPY_ID)
    [(events,)] = query(database.url, "SELECT count(*) FROM stripe_events")
    [(donations,)] = query(database.url, "SELECT count(*) FROM stripe_attributions WHERE id = root")
    for table in TABLES:
        wanted, there = (EVENTS, events) if table == "stripe_events" else (DONATIONS, donations)
        assert isinstance(there, int)
        _copy(database.url, table, -(-wanted // there) - 1)


def _copy(url: str, table: str, times: int) -> None:
    columns = [str(name) for (name,) in query(
        url,
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
        [table],
    )]  # fmt: skip
    values = [COPIED[table].get(name, f"t.{name}") for name in columns]
    where = "" if table != "stripe_attributions" else "WHERE t.id = t.root"
    insert = (
        f"INSERT INTO {table} ({', '.join(columns)}) "  # noqa: S608 - names of our own
        f"SELECT {', '.join(values)} FROM {table} t CROSS JOIN generate_series(1, {times}) AS n {where}"
    )
    drops, makes = _indexes(url, table)
    for statement in (*drops, insert, *makes):
        query(url, statement)


def _indexes(url: str, table: str) -> tuple[list[str], list[str]]:
    """The statements that drop a table's indexes, and those that make them again: building beats maintaining."""
    keys = query(
        url,
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = %s::regclass"
        " AND contype IN ('p', 'u')",
        [table],
    )
    names = [name for name, _ in keys]
    others = query(url, "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = %s", [table])
    others = [(name, definition) for name, definition in others if name not in names]
    drops = [f"ALTER TABLE {table} DROP CONSTRAINT {name}" for name in names]
    makes = [f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}" for name, definition in keys]
    return (
        drops + [f"DROP INDEX {name}" for name, _ in others],
        makes + [str(definition) for _, definition in others],
    )

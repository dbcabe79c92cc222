"""How the statements that record events are executed while the ledger grows."""

import psycopg2

from daemon.ledger.recorder import Recorder
from sql.database import Database
from tests.bench.fill import batches, entry
from tests.bench.stream import Pool, Stream

EVENTS, OBSERVED = 10_000, 1_000
BATCH = 50
# What the statements look rows up by, besides primary keys: the donations of a subscription, the failed charges of a
# PaymentIntent, and the journal's entries of a donation.
OTHER_KEYS = {"attributions_by_subscription", "failed_charges_by_intent", "entries_by_donation"}
SCANS = """
SELECT indexrelname, idx_scan, idx_tup_read FROM pg_stat_user_indexes
UNION ALL
SELECT relname, seq_scan, seq_tup_read FROM pg_stat_user_tables
"""


async def test_tables_that_were_analysed_while_empty_are_read_by_their_keys(database_url: str) -> None:
    """After 10,000 events one connection that served from the first event finds each row by a key: no statement reads
    a table, or the whole of an index.
    """
    connection = psycopg2.connect(database_url)
    connection.autocommit = True
    connection.cursor().execute("VACUUM ANALYZE")
    connection.close()
    database = Database(
        database_url, pool_size=1, statement_timeout_s=60, connect_timeout_s=5, application_name="donationd test"
    )
    recorder = Recorder(database)
    stream = Stream(Pool(payments=500), ["story-1"])
    for batch in batches(map(entry, stream.take(EVENTS)), BATCH):
        await recorder.record(batch)
    before = await scans(database)
    for batch in batches(map(entry, stream.take(OBSERVED)), BATCH):
        await recorder.record(batch)
    after = await scans(database)
    await database.close()
    grown = {name: (after[name][0] - before[name][0], after[name][1] - before[name][1]) for name in after}
    used = {name for name, (count, _read) in grown.items() if count}
    assert {name for name in used if not name.endswith("_pkey")} <= OTHER_KEYS
    assert {"stripe_attributions_pkey", "stripe_objects_pkey"} <= used
    assert all(read <= 2 * count for count, read in grown.values()), grown


async def scans(database: Database) -> dict[str, tuple[int, int]]:
    """How often each index, and each table in its whole length, was read, and how many rows of it."""
    await database.fetch("SELECT pg_stat_force_next_flush()")
    return {name: (count, read) for name, count, read in await database.fetch(SCANS)}

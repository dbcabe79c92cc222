"""How the statements that record and read are executed while the ledger grows."""

from contextlib import closing

import psycopg2

from daemon.ledger.reader import Cursor, Ledger, PageQuery
from daemon.ledger.recorder import Recorder
from sql.database import Database
from tests.bench.fill import batches, entry
from tests.bench.stream import Pool, Stream

EVENTS, OBSERVED = 3_000, 500
BATCH = 50
MOST = 80  # a page's eleven rows, and former versions of them, whose number depends on the moment
CURRENCIES = 10  # more than the stream has
TICKETS = [f"story-{number}" for number in range(20)]
# What the statements look rows up by, besides primary keys: the donations of a subscription, the failed charges of a
# PaymentIntent, and the journal's entries of a donation.
OTHER_KEYS = {"attributions_by_subscription", "failed_charges_by_intent", "entries_by_donation", "mail_is_one"}
SCANS = """
SELECT indexrelname, idx_scan, idx_tup_read FROM pg_stat_user_indexes
UNION ALL
SELECT relname, seq_scan, seq_tup_read FROM pg_stat_user_tables
"""
Scans = dict[str, tuple[int, int]]


async def test_rows_are_found_by_their_keys(database_url: str) -> None:
    """Of tables that were analysed while they were empty: after 3,000 events one connection that has written and read
    from the first event on finds each row by a key. No statement that records reads a table, or the whole of an index.
    A page is read in the ledger's order, from the cursor on, and nothing else of the ledger; for totals one donation of
    each ticket is read.
    """
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("VACUUM ANALYZE")
        cursor.execute("INSERT INTO recording_tickets (id) SELECT unnest(%s)", [TICKETS])
    database = Database(
        database_url, pool_size=1, statement_timeout_s=60, connect_timeout_s=5, application_name="donationd test"
    )
    recorder, ledger = Recorder(database), Ledger(database)
    stream = Stream(Pool(payments=500), TICKETS[:2])
    for batch in batches(map(entry, stream.take(EVENTS)), BATCH):
        await recorder.record(batch)
        await ledger.totals(TICKETS[0])
        await ledger.page(PageQuery(TICKETS[0], 10, "USD"))
    before = await scans(database)
    for batch in batches(map(entry, stream.take(OBSERVED)), BATCH):
        await recorder.record(batch)
    check_records(before, await scans(database))
    await check_reads(database, ledger)
    await database.close()


def check_records(before: Scans, after: Scans) -> None:
    """What was read while events were recorded."""
    grown = {name: (after[name][0] - before[name][0], after[name][1] - before[name][1]) for name in after}
    used = {name for name, (count, _read) in grown.items() if count}
    assert {name for name in used if not name.endswith("_pkey")} <= OTHER_KEYS
    assert {"stripe_attributions_pkey", "stripe_objects_pkey"} <= used
    assert all(read <= 2 * count for count, read in grown.values()), grown


async def check_reads(database: Database, ledger: Ledger) -> None:
    """What is read for the first page, for another one, and for totals."""
    [(paid, created, id_)] = await database.fetch(
        "SELECT extract(epoch FROM paid_at)::bigint, extract(epoch FROM created_at)::bigint, id"
        " FROM stripe_attributions WHERE ticket_id = %s AND paid_at IS NOT NULL ORDER BY paid_at LIMIT 1 OFFSET 200",
        [TICKETS[0]],
    )
    for query in (
        lambda: ledger.page(PageQuery(TICKETS[0], 10, "USD")),
        lambda: ledger.page(PageQuery(TICKETS[0], 10, "USD", after=Cursor(paid, created, id_))),
        lambda: ledger.totals(TICKETS[0]),
    ):
        before = await scans(database)
        await query()
        after = await scans(database)
        grown = {name: after[name][1] - before[name][1] for name in after if after[name] != before[name]}
        assert grown.pop("attributions_by_ticket") <= MOST, grown
        assert grown.pop("ticket_totals_pkey", 0) <= CURRENCIES, grown
        assert all(read == 1 for read in grown.values()), grown


async def scans(database: Database) -> Scans:
    """How often each index, and each table in its whole length, was read, and how many rows of it."""
    await database.fetch("SELECT pg_stat_force_next_flush()")
    return {name: (count, read) for name, count, read in await database.fetch(SCANS)}

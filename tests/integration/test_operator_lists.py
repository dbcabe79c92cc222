"""Lists of the operator API with many rows: found by indexes, and sent to clients that read slowly or leave."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from datetime import date
from pathlib import Path

import aiohttp
import psycopg2
import pytest

from daemon.api.endpoints import PREFIX
from daemon.ledger import audit, queues, search, tickets
from daemon.ledger.changes import ReceivedEvent
from daemon.ledger.donation import Status
from daemon.ledger.recorder import Recorder
from daemon.ledger.search import SCAN, Search
from daemon.ledger.stripe_events import read
from daemon.reports import daily_sums, overview
from daemon.reports.periods import Unit
from daemon.simulator import sender
from sql.database import Database
from tests.bench.machine import Site, resident_mb
from tests.support.api_process import SECRET, Api, ready_sidecar, until
from tests.support.operators import ENTRIES, READER, bearer
from tests.support.postgres import MakeTemplate
from tests.support.process import Process

MANY_ROWS = (Path(__file__).parents[1] / "support" / "many_rows.sql").read_text(encoding="utf-8")
ROWS = 30_000
# Half of the donations lose their ticket; there are more failed events, actions and tickets than a page may have.
MORE_ROWS = """
UPDATE stripe_attributions SET ticket_id = NULL WHERE mod(amount_minor, 2) = 0;
INSERT INTO stripe_events (id, type, stripe_created, processed_at, livemode, error)
SELECT 'evt_' || n, 'charge.updated', now(), now() - n * interval '1 second', true,
       CASE WHEN n <= 3000 THEN repeat('x', 400) END FROM generate_series(1, 30000) n;
INSERT INTO operator_acts (at, actor, action, detail) SELECT now(), 'kim', 'export', repeat('x', 400)
FROM generate_series(1, 3000);
INSERT INTO recording_tickets (id, title) SELECT 'more-' || n, repeat('x', 200) FROM generate_series(1, 3000) n;
ANALYZE
"""
LISTS = ("donations", "donations?status=REFUNDED", "donations?ticket=story-1", "unassigned", "failed-events", "tickets",
         "actions", "early-warnings")  # fmt: skip
BIG = {"stripe_attributions", "stripe_objects", "stripe_events", "ledger_entries", "operator_acts"}
SCANNED = "SELECT relname, seq_tup_read, idx_tup_fetch FROM pg_stat_user_tables"


def fill(url: str) -> None:
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(MANY_ROWS, {"rows": ROWS})
        cursor.execute(MORE_ROWS)


@pytest.fixture(scope="module")
def template(make_template: MakeTemplate) -> str:
    """A ledger with ROWS donations."""
    return make_template(fill)


async def record_warnings(database: Database) -> None:
    """Some hundred payments, each with an early fraud warning."""
    received = []
    for number in range(300):
        charge = {"id": f"ch_warned{number}", "amount": 5000, "currency": "usd", "paid": True, "captured": True,
                  "amount_captured": 5000, "status": "succeeded", "created": 1_760_000_000}  # fmt: skip
        warning = {"id": f"issfr_{number}", "charge": charge["id"], "fraud_type": "misc", "created": 1_760_000_000}
        events = {"charge.succeeded": charge, "radar.early_fraud_warning.created": warning}
        bodies = [
            {"id": f"evt_{shown['id']}", "type": type_, "created": 1_760_000_000, "livemode": False,
             "data": {"object": shown}}
            for type_, shown in events.items()
        ]  # fmt: skip
        received += [ReceivedEvent(read(sender.encode(body), livemode=False, hash_key=None)) for body in bodies]
    for begin in range(0, len(received), 100):
        await Recorder(database).record(received[begin : begin + 100])


async def counts(database: Database) -> dict[str, tuple[int, int]]:
    await database.fetch("SELECT pg_stat_force_next_flush()")
    return {name: (whole, fetched or 0) for name, whole, fetched in await database.fetch(SCANNED)}


Asking = Callable[[Database], Awaitable[object]]
QUESTIONS: dict[str, Asking] = {
    "all": lambda database: search.search(database, Search(100)),
    "a page in the middle": lambda database: search.search(database, Search(100, after=(1760300000, "pi_"))),
    "a status": lambda database: search.search(database, Search(100, status=Status.REFUNDED)),
    "a ticket": lambda database: search.search(database, Search(100, ticket="story-1")),
    "a ticket and a currency": lambda database: search.search(database, Search(100, ticket="story-1", currency="JPY")),
    "a subscription": lambda database: search.search(database, Search(100, q="sub_1")),
    "an id": lambda database: search.search(database, Search(100, q="pi_1")),
    "unassigned": lambda database: queues.unassigned(database, 100),
    "failed events": lambda database: queues.failed_events(database, 100),
    "actions": lambda database: audit.actions(database, 100),
    "chain": audit.chain,
    "tickets": lambda database: tickets.tickets(database, 100),
    "activity": overview.activity,
    "totals": overview.totals,
    "what waits": overview.waiting,
    "charts": lambda database: daily_sums.recent(database, Unit.DAY, "UTC", date(2026, 1, 1)),
}


async def test_no_list_reads_a_whole_table(database: Database) -> None:
    """Each page finds its rows by an index: not more rows than it shows or may look at."""
    await audit.chain(database)
    for name, question in QUESTIONS.items():
        before = await counts(database)
        await question(database)
        after = await counts(database)
        for table in BIG:
            whole, fetched = (after[table][n] - before[table][n] for n in (0, 1))
            assert whole == 0, (name, table)
            assert fetched <= SCAN + 1000, (name, table, fetched)


async def test_a_search_by_hash_reads_a_part_of_the_table(database: Database) -> None:
    """The index by e-mail hashes leaves out what cannot contain the hash."""
    await database.fetch("VACUUM stripe_attributions")
    [(wanted,)] = await database.fetch("SELECT donor_email_hash FROM stripe_attributions WHERE amount_minor = 777")
    found = await search.search(database, Search(100, q=wanted))
    assert [each.amount_minor for each in found.donations] == [777]
    plan = await database.fetch(
        "SET enable_seqscan = off; EXPLAIN SELECT id FROM stripe_attributions WHERE donor_email_hash = %s", [wanted]
    )
    assert any("attributions_by_email_hash" in line for (line,) in plan)


# --- Clients


@asynccontextmanager
async def serving(api: Api) -> AsyncIterator[Process]:
    """An API process whose clients have a second to read a reply."""
    api.environ |= {"OPERATOR_TOKENS": ENTRIES, "WRITE_TIMEOUT_MS": "1000", "OPERATOR_PLACES": "4"}
    async with ready_sidecar(api.socket), api.running() as process:
        await until(process, "listening on")
        yield process


def asking(api: Api, path: str) -> socket.socket:
    """A client with a small buffer that has asked for a list and reads nothing yet."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    client.connect(("127.0.0.1", api.port))
    separator = "&" if "?" in path else "?"
    head = f"GET {PREFIX}{path}{separator}limit=1000 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {READER}\r\n\r\n"
    client.sendall(head.encode())
    return client


async def deliver(session: aiohttp.ClientSession, number: int) -> int:
    """A signed event."""
    event = {"id": f"evt_new{number}", "object": "event", "type": "customer.created", "created": 1_760_000_000,
             "livemode": False, "data": {"object": {}}}  # fmt: skip
    body = json.dumps(event).encode()
    headers = {"Stripe-Signature": sender.sign(body, SECRET, int(time.time()))}
    async with session.post("/webhooks/stripe", data=body, headers=headers) as reply:
        return reply.status


async def test_clients_that_read_slowly_or_leave_disturb_no_other(api: Api, database: Database) -> None:
    """Of each list, some read a byte per second and some leave in the middle: meanwhile every webhook is answered 200,
    afterwards every connection of theirs has ended, every list is answered, and their memory is free.
    """
    await record_warnings(database)
    async with serving(api) as process, aiohttp.ClientSession(api.base) as session:
        for path in LISTS:
            async with session.get(PREFIX + path, params={"limit": "1000"}, headers=bearer(READER)) as reply:
                assert reply.status == 200
        before_mb = resident_mb(Site(api.port, (process.pid,)))
        slow = [asking(api, path) for path in LISTS * 3]
        for number in range(20):
            assert await deliver(session, number) == 200
            for client in slow:
                client.setblocking(False)
                with suppress(OSError):  # there is nothing to read, or the connection was closed
                    client.recv(1)
            asking(api, LISTS[number % len(LISTS)]).close()  # leaves before the reply
            await asyncio.sleep(0.15)
        await asyncio.sleep(1)
        for client in slow:
            client.close()
        for path in LISTS:
            async with session.get(PREFIX + path, params={"limit": "1000"}, headers=bearer(READER)) as reply:
                assert reply.status == 200
                assert len(await reply.read()) > 50
        assert resident_mb(Site(api.port, (process.pid,))) - before_mb < 40
        assert process.poll() is None
    assert "Unexpected error" not in api.log.read_text()

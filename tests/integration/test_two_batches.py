"""Batches in flight at the same time, on a real PostgreSQL: none disturbs another, and nothing is lost."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing, contextmanager

import psycopg2
import pytest

from daemon.ledger.batcher import BATCHES, SECOND_BATCH_EVENTS, Batcher
from daemon.ledger.changes import Outcome, ReceivedEvent, Result
from daemon.ledger.recorder import Recorder
from daemon.ledger.stripe_events import read
from daemon.ledger.verification import verify
from daemon.simulator import sender
from daemon.simulator.scenarios import Scenario, generate
from daemon.simulator.stripe_objects import Json
from sql import load
from sql.connection import Params, Row
from sql.database import Database
from sql.errors import DatabaseUnavailable
from sql.snapshot import snapshot
from tests.simulator.oracle import only_donation
from tests.support.ledger import scenario
from tests.support.model_ledger import SHOWN, TOTALS, as_row, totals_of
from tests.support.process import WAIT_S

NOW = 1_760_000_000
WAITING = """
SELECT pid FROM pg_stat_activity
WHERE wait_event_type = 'Lock' AND application_name = 'donationd batches' ORDER BY query_start
"""


class CountingDatabase(Database):
    """Counts the statements that it ran."""

    statements = 0

    async def fetch(self, sql: str, params: Params = (), *, prepare: str | None = None) -> list[Row]:
        self.statements += 1
        return await super().fetch(sql, params, prepare=prepare)


@pytest.fixture
async def writer(database_url: str) -> AsyncIterator[CountingDatabase]:
    opened = CountingDatabase(
        database_url,
        pool_size=BATCHES,
        statement_timeout_s=60,
        connect_timeout_s=5,
        application_name="donationd batches",
    )
    yield opened
    await opened.close()


@contextmanager
def ledger_locked(url: str) -> Iterator[None]:
    """Every statement that writes to the ledger waits until the end."""
    with closing(psycopg2.connect(url)) as other, other.cursor() as cursor:
        cursor.execute(load("lock_ledger"))
        yield


class Flight:
    """Events on their way through one batcher."""

    def __init__(self, writer: Database) -> None:
        self._batcher = Batcher(Recorder(writer), limit=1000)

    def post(self, *events: Json) -> list[asyncio.Task[Outcome]]:
        entries = [ReceivedEvent(read(sender.encode(event), livemode=False, hash_key=None)) for event in events]
        return [asyncio.create_task(self._batcher.record(entry, 1)) for entry in entries]


async def waiting(database: Database, batches: int) -> list[int]:
    """The processes of PostgreSQL in which a batch waits for a lock, as soon as there are so many."""
    async with asyncio.timeout(WAIT_S):
        while len(rows := await database.fetch(WAITING)) < batches:  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.01)
    return [pid for (pid,) in rows]


@pytest.fixture
def flight(writer: CountingDatabase) -> Flight:
    return Flight(writer)


def others(count: int = SECOND_BATCH_EVENTS) -> list[Scenario]:
    """Payments that are worth a second batch with their first events."""
    return [each for each in generate(7, 10 * count, ["story-1"], now=NOW) if each.kind == "paid"][:count]


async def assert_ledger_is(database: Database, url: str, scenarios: list[Scenario]) -> None:
    """The rows and totals are the model's, and the ledger agrees with itself."""
    ends = [only_donation(each) for each in scenarios]
    assert sorted(await database.fetch(SHOWN), key=str) == sorted(map(as_row, ends), key=str)
    assert await database.fetch(TOTALS) == totals_of(ends)
    with snapshot(url, "donationd test") as moment:
        assert list(verify(moment, lambda _done: None)) == []


Break = Callable[[Database, int, list[asyncio.Task[Outcome]]], Awaitable[object]]


async def its_connection_is_killed(database: Database, pid: int, _requests: list[asyncio.Task[Outcome]]) -> None:
    assert await database.fetch("SELECT pg_terminate_backend(%s, 30000)", (pid,)) == [(True,)]


async def its_statement_is_cancelled(database: Database, pid: int, _requests: list[asyncio.Task[Outcome]]) -> None:
    assert await database.fetch("SELECT pg_cancel_backend(%s)", (pid,)) == [(True,)]


async def its_clients_go_away(_database: Database, _pid: int, requests: list[asyncio.Task[Outcome]]) -> None:
    for request in requests:
        request.cancel()


@pytest.mark.parametrize("broken", [0, 1])
@pytest.mark.parametrize("break_batch", [its_connection_is_killed, its_statement_is_cancelled, its_clients_go_away])
async def test_what_happens_to_one_batch_does_not_concern_the_other(
    flight: Flight, database: Database, database_url: str, broken: int, break_batch: Break
) -> None:
    """The other batch is applied; what was not answered is delivered again, and the ledger is the model's."""
    one, *many = others(SECOND_BATCH_EVENTS + 1)
    batches = [[one.events[0]], [each.events[0] for each in many]]
    requests = []
    with ledger_locked(database_url):
        for number, batch in enumerate(batches):
            requests.append(flight.post(*batch))
            pids = await waiting(database, number + 1)
        await break_batch(database, pids[broken], requests[broken])
        unanswered = await asyncio.gather(*requests[broken], return_exceptions=True)
    applied = await asyncio.gather(*requests[1 - broken])
    assert {outcome.result for outcome in applied} == {Result.APPLIED}
    assert all(isinstance(each, DatabaseUnavailable | asyncio.CancelledError) for each in unanswered)
    await asyncio.gather(*flight.post(*batches[broken]))
    for each in (one, *many):
        await asyncio.gather(*flight.post(*each.events))
    await assert_ledger_is(database, database_url, [one, *many])


async def test_objects_that_only_stored_rows_connect_are_read_again(
    flight: Flight, writer: CountingDatabase, database: Database, database_url: str
) -> None:
    """Two batches about one donation that share no id: the second one notices what the first has written."""
    refunded = scenario("refunded")
    many = others(SECOND_BATCH_EVENTS - 1)
    first = {event["type"]: event for event in reversed(refunded.events)}
    refund = shown_without(first["charge.refunded"], "payment_intent")
    success = shown_without(first["payment_intent.succeeded"], "latest_charge")
    await asyncio.gather(*flight.post(first["charge.succeeded"]))
    before = writer.statements
    with ledger_locked(database_url):
        requests = flight.post(refund)
        await waiting(database, 1)
        requests += flight.post(success, *(each.events[0] for each in many))
        await waiting(database, 2)
    assert {outcome.result for outcome in await asyncio.gather(*requests)} == {Result.APPLIED}
    assert writer.statements - before == 6, "each batch is read and written; one donation is read and written again"
    for each in (refunded, *many):
        await asyncio.gather(*flight.post(*each.events))
    await assert_ledger_is(database, database_url, [refunded, *many])


def shown_without(event: Json, name: str) -> Json:
    """The event under another id, without one of the names of its object."""
    return {**event, "id": f"{event['id']}X", "data": {"object": {**event["data"]["object"], name: None}}}


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
async def test_what_waited_for_the_lock_sees_what_was_written_meanwhile(
    writer: CountingDatabase, database: Database, database_url: str, isolation: str
) -> None:
    """Whatever the default isolation of the database is: each of two writers books the entries of its payment."""
    [(name,)] = await database.fetch("SELECT current_database()")
    await database.fetch(f"ALTER DATABASE \"{name}\" SET default_transaction_isolation = '{isolation}'")
    payments = [scenario("paid", n, ticket=f"story-{n}") for n in (1, 2)]  # with no row in common
    async with asyncio.TaskGroup() as group:
        with ledger_locked(database_url):
            tasks = [group.create_task(Recorder(writer).record([completed(each)])) for each in payments]
            await waiting(database, 2)
    assert [task.result()[0].result for task in tasks] == [Result.APPLIED] * 2
    assert await database.fetch("SELECT count(*), max(seq) FROM ledger_entries") == [(2, 2)]


@pytest.mark.parametrize(
    ("statement", "error", "result"),
    [
        ("DELETE FROM stripe_events WHERE id = %s", None, Result.APPLIED),
        ("UPDATE stripe_events SET dismissed_at = now() WHERE id = %s", None, Result.DUPLICATE),
        ("UPDATE stripe_events SET dismissed_at = now() WHERE id = %s", "scrubbed", Result.APPLIED),
    ],
    ids=["pruned", "changed", "dismissed after it had failed"],
)
async def test_an_event_whose_row_changes_meanwhile(
    writer: Database, database: Database, database_url: str, *, statement: str, error: str | None, result: Result
) -> None:
    """The outcome is that of the row when the other statement, which takes no lock of the ledger, has ended."""
    received = completed(scenario("paid", 1))
    assert [each.result for each in await Recorder(writer).record([received])] == [Result.APPLIED]
    await database.fetch("UPDATE stripe_events SET error = %s", (error,))
    with closing(psycopg2.connect(database_url)) as other, other.cursor() as cursor:
        cursor.execute(statement, (received.event.id,))
        task = asyncio.create_task(Recorder(writer).record([received]))
        await waiting(database, 1)
        other.commit()
    assert [each.result for each in await task] == [result]
    assert await database.fetch("SELECT id, error FROM stripe_events") == [(received.event.id, None)]


def completed(payment: Scenario) -> ReceivedEvent:
    """The event that says that it is paid, and for which ticket."""
    [event] = [each for each in payment.events if each["type"] == "checkout.session.completed"]
    return ReceivedEvent(read(sender.encode(event), livemode=False, hash_key=None))

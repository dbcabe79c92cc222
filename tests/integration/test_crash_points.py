"""The API process is killed at each step of the webhook's way; Stripe's next delivery gives the same ledger each time.

The production code has no hook for this: a proxy before PostgreSQL holds the statement or its answer, a lock in
PostgreSQL holds the statement in flight, and a proxy before the API holds the reply.
"""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from typing import Any

import aiohttp
import psycopg2
import pytest

from daemon.ledger.batcher import SECOND_BATCH_EVENTS
from daemon.runtime.readiness import Readiness
from daemon.simulator import sender
from daemon.simulator.scenarios import generate
from daemon.simulator.stripe_objects import Json
from health_sidecar.publisher import ReadinessServer
from sql import load
from sql.database import Database
from tests.chaos.proxy import HOST, Proxy
from tests.simulator.oracle import only_donation
from tests.support.api_process import SECRET, Api, ended, until
from tests.support.model_ledger import SHOWN, TOTALS, as_row, totals_of
from tests.support.postgres import USER, Server

TICKET = "story-1"
WARM_UP = {  # an event that changes nothing: with it the API has its connection
    "id": "evt_warm_up",
    "object": "event",
    "type": "customer.created",
    "created": 1_760_000_000,
    "livemode": False,
    "data": {"object": {}},
}
WAIT_S = 30
WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
TWO_WAIT = """
SELECT max(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()
HAVING count(*) = 2
"""


@dataclass
class Way:
    """Everything between Stripe and the ledger.

    Attributes:
        front: the proxy before the API.
        back: the proxy before PostgreSQL.
        ledger: the database itself, past the proxy, as is `url`.
    """

    api: Api
    front: Proxy
    back: Proxy
    ledger: Database
    url: str

    async def post(self, event: Json) -> Json:
        """Delivers an event; returns the reply to a 200. Raises aiohttp.ClientError if there is none."""
        body = sender.encode(event)
        headers = {"Stripe-Signature": sender.sign(body, SECRET, int(time.time()))}
        url = f"http://{HOST}:{self.front.port}/webhooks/stripe"
        async with aiohttp.ClientSession() as http, http.post(url, data=body, headers=headers) as reply:
            assert reply.status == 200, await reply.text()
            said: Json = json.loads(await reply.read())
            return said

    async def recorded(self, event: Json) -> bool:
        """Whether the ledger holds an event."""
        return bool(await self.ledger.fetch("SELECT 1 FROM stripe_events WHERE id = %s", (event["id"],)))

    async def one(self, sql: str, *params: object) -> Any:
        """The value of a query's only row, as soon as there is one."""
        async with asyncio.timeout(WAIT_S):
            while not (rows := await self.ledger.fetch(sql, params)):  # noqa: ASYNC110 - PostgreSQL has no event for it
                await asyncio.sleep(0.01)
        return rows[0][0]


Kill = Callable[[], Awaitable[None]]
Point = Callable[[Way, Json, Kill], Awaitable[bool]]  # returns whether the event is in the ledger afterwards


async def before_the_read(way: Way, event: Json, kill: Kill) -> bool:
    """What the API asks about the event's objects never reaches PostgreSQL."""
    await lose(way, way.back, event, kill, to_client=False)
    return False


async def before_the_write(way: Way, event: Json, kill: Kill) -> bool:
    """PostgreSQL's answer about the event's objects never reaches the API."""
    await lose(way, way.back, event, kill, to_server=False)
    return False


async def in_flight_and_done(way: Way, event: Json, kill: Kill) -> bool:
    """PostgreSQL is at the statement, waits for a lock, and continues when no client waits for the answer any more."""
    async with posting(way, event), held_in_flight(way) as pid:
        await kill()
    await way.one("SELECT 1 WHERE NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = %s)", pid)
    return True


async def in_flight_and_gone(way: Way, event: Json, kill: Kill) -> bool:
    """PostgreSQL is at the statement and ends it undone."""
    async with posting(way, event), held_in_flight(way) as pid:
        await kill()
        assert await way.one("SELECT pg_terminate_backend(%s, 5000)", pid)
    return False


async def after_the_commit(way: Way, event: Json, kill: Kill) -> bool:
    """PostgreSQL's answer to the write never reaches the API."""
    async with posting(way, event):
        async with held_in_flight(way):
            way.back.black_hole(to_server=False)
        await way.back.held.wait()
        await kill()
        way.back.reset()
    return True


async def before_the_reply(way: Way, event: Json, kill: Kill) -> bool:
    """The API's reply never reaches Stripe."""
    await lose(way, way.front, event, kill, to_server=False)
    return True


async def lose(way: Way, proxy: Proxy, event: Json, kill: Kill, **directions: bool) -> None:
    """Kills while a proxy holds what it should pass on; `directions` that are False stay open (Proxy.black_hole)."""
    proxy.black_hole(**directions)
    async with posting(way, event):
        await proxy.held.wait()
        await kill()
        proxy.reset()


@asynccontextmanager
async def posting(way: Way, event: Json) -> AsyncIterator[None]:
    """A delivery that gets no answer; everything passes again afterwards."""
    delivery = asyncio.create_task(way.post(event))
    try:
        async with asyncio.timeout(WAIT_S):
            yield
        with pytest.raises(aiohttp.ClientError):
            await delivery
    finally:
        delivery.cancel()
        way.front.heal()
        way.back.heal()


@asynccontextmanager
async def held_in_flight(way: Way) -> AsyncIterator[int]:
    """The statement that writes waits for the ledger's lock until the end; yields the pid of its backend."""
    with closing(psycopg2.connect(way.url)) as writer, writer.cursor() as cursor:
        cursor.execute(load("lock_ledger"))
        yield await way.one(WAITING)


POINTS = (before_the_read, before_the_write, in_flight_and_done, in_flight_and_gone, after_the_commit, before_the_reply)


@pytest.fixture
async def way(
    server: Server, database_url: str, database: Database, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Way]:
    """The whole way but for the API process; the sidecar says ready."""
    async with Proxy(f"{server.home}/.s.PGSQL.5432") as back:
        name = database_url.partition("@/")[2].partition("?")[0]
        api = Api(tmp_path_factory.mktemp("api"), f"postgresql://{USER}@{HOST}:{back.port}/{name}")
        async with (
            Proxy((HOST, api.port)) as front,
            ReadinessServer(api.socket, Readiness(ready=True), lambda: None) as sidecar,
        ):
            heartbeat = asyncio.create_task(sidecar.run())
            await database.fetch("INSERT INTO recording_tickets (id) VALUES (%s)", (TICKET,))
            yield Way(api, front, back, database, database_url)
            heartbeat.cancel()


async def test_a_killed_api_process_changes_nothing_in_the_end(way: Way) -> None:
    """Killed at each point, at the first and at the last event of a payment: delivered again to the next process, which
    is then killed itself, the ledger is the model's.
    """
    found = generate(1, 400, [TICKET], now=int(time.time()))
    payments = [each for each in found if each.kind == "partially_refunded"][: len(POINTS)]
    killed_at = WARM_UP, False  # the event at which the process before was killed, and whether it is in the ledger
    for point, payment in zip(POINTS, payments, strict=True):
        first, *others, last = payment.events
        killed_at = first, await redeliver_and_crash(way, killed_at, point, [], first)
        killed_at = last, await redeliver_and_crash(way, killed_at, point, others, last)
    async with way.api.running() as process:
        await until(process, "listening on")
        await redeliver(way, *killed_at)
    ends = sorted((only_donation(each) for each in payments), key=lambda end: end.donation)
    assert await way.ledger.fetch(SHOWN) == [as_row(end) for end in ends]
    assert await way.ledger.fetch(TOTALS) == totals_of(ends)


async def redeliver(way: Way, event: Json, is_recorded: bool) -> None:
    """Delivers an event again, which changes nothing if it is in the ledger."""
    assert (await way.post(event))["idempotent"] is is_recorded


async def redeliver_and_crash(
    way: Way, killed_at: tuple[Json, bool], point: Point, before: Sequence[Json], event: Json
) -> bool:
    """An API process gets again what the one before was killed at, takes others, and is killed at this point of an
    event's way. Returns whether the event is in the ledger."""
    async with way.api.running() as process:
        await until(process, "listening on")
        await redeliver(way, *killed_at)
        for each in before:
            await way.post(each)

        async def kill() -> None:
            process.kill()
            await ended(process)

        is_recorded = await point(way, event, kill)
    assert await way.recorded(event) is is_recorded, point.__name__
    return is_recorded


@pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "stopped"])
async def test_an_api_process_that_ends_with_two_batches_in_flight(way: Way, is_killed: bool) -> None:
    """Killed: no event is answered, and all are delivered again. Stopped: it writes and answers both batches first."""
    several = [each for each in generate(1, 400, [TICKET], now=int(time.time())) if each.kind == "paid"]
    one, *many = several[: SECOND_BATCH_EVENTS + 1]
    async with way.api.running() as process:
        await until(process, "listening on")
        await way.post(WARM_UP)
        with closing(psycopg2.connect(way.url)) as writer, writer.cursor() as cursor:
            cursor.execute(load("lock_ledger"))
            first = asyncio.create_task(way.post(one.events[0]))
            await way.one(WAITING)
            rest = [asyncio.create_task(way.post(each.events[0])) for each in many]
            await way.one(TWO_WAIT)
            if is_killed:
                process.kill()
                await ended(process)
            else:
                process.terminate()
        replies = await asyncio.gather(first, *rest, return_exceptions=True)
        assert await ended(process) == (-signal.SIGKILL if is_killed else 0)
    if is_killed:
        assert {type(reply) for reply in replies} <= {aiohttp.ServerDisconnectedError, aiohttp.ClientOSError}
    else:
        assert [reply if isinstance(reply, BaseException) else reply["idempotent"] for reply in replies] == [
            False
        ] * len(replies)
    async with way.api.running() as process:
        await until(process, "listening on")
        for each in (one, *many):
            for event in each.events:
                await way.post(event)
    ends = sorted((as_row(only_donation(each)) for each in (one, *many)), key=str)
    assert sorted(await way.ledger.fetch(SHOWN), key=str) == ends
    assert await way.ledger.fetch(TOTALS) == totals_of([only_donation(each) for each in (one, *many)])

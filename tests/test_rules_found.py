"""What an independent reading of SPEC 3 found: small sets of events, in every order or interleaving of writers."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from daemon.facts import read
from daemon.recorder import Entry, Recorder
from daemon.simulator.player import encode
from daemon.verify import verify
from sql.database import Database, Row
from sql.snapshot import snapshot

START = 1_793_000_000
ROWS = """
SELECT id, ticket_id, status, amount_minor, refunded_minor, extract(epoch FROM refunded_at)::bigint, donor_last_name,
       donor_email_hash, charge_id
FROM stripe_attributions ORDER BY id
"""
TICKETS = "SELECT id, ticket_id FROM stripe_attributions ORDER BY id"
WAIT_S = 10.0


def event(event_type: str, second: int, stripe_object: dict[str, Any]) -> Entry:
    """An event as it is recorded."""
    id_ = f"evt_{event_type}_{stripe_object['id']}_{second}".replace(".", "_")
    body = {"id": id_, "type": event_type, "created": START + second, "livemode": False}
    return Entry(read(encode({**body, "data": {"object": stripe_object}}), livemode=False, hash_key=None))


def subscription(id_: str, ticket: str, second: int) -> Entry:
    """A subscription names its ticket."""
    return event("customer.subscription.updated", second, {"id": id_, "metadata": {"ticketId": ticket}})


def invoice(id_: str, subscription_id: str, **fields: object) -> Entry:
    """A paid invoice of a subscription; it names its PaymentIntent only where `fields` do."""
    return event("invoice.paid", 1, {"id": id_, "subscription": subscription_id, **fields})


def payment(id_: str, second: int = 1, **fields: object) -> Entry:
    """A PaymentIntent that succeeded."""
    return event("payment_intent.succeeded", second, {"id": id_, "amount_received": 500, "currency": "usd", **fields})


async def clear(database: Database) -> None:
    """Empties the ledger."""
    await database.fetch(
        "TRUNCATE stripe_events, stripe_attributions, stripe_objects, ticket_totals, stripe_billing,"
        " stripe_failed_charges"
    )


async def rows_in_every_order(database: Database, url: str, events: list[Entry], rows: str = ROWS) -> list[Row]:
    """What stands after the events, which must be the same in every order, and agree with the facts."""
    results: set[tuple[Row, ...]] = set()
    for order in itertools.permutations(events):
        await clear(database)
        for entry in order:
            await Recorder(database).record([entry])
        results.add(tuple(await database.fetch(rows)))
        assert_right(url)
    [result] = results
    return list(result)


def assert_right(url: str) -> None:
    """The ledger and its facts agree."""
    with snapshot(url, "donationd test") as moment:
        assert list(verify(moment, lambda _done: None)) == []


class PausingDatabase(Database):
    """Our driver, which stops before its first write until it is released."""

    def __init__(self, url: str) -> None:
        super().__init__(
            url, pool_size=1, statement_timeout_s=10, connect_timeout_s=5, application_name="donationd test"
        )
        self.has_read = asyncio.Event()
        self.released = asyncio.Event()

    async def fetch(self, sql: str, params: Any = None, *, prepare: str | None = None) -> list[Row]:
        if "record_events" in sql:
            self.has_read.set()
            await self.released.wait()
        return await super().fetch(sql, params, prepare=prepare)


@asynccontextmanager
async def writer_that_has_read(url: str, entry: Entry) -> AsyncIterator[tuple[asyncio.Event, asyncio.Task[object]]]:
    """A writer that has read what the ledger holds, and writes when it is released."""
    database = PausingDatabase(url)
    async with asyncio.timeout(WAIT_S):
        task = asyncio.create_task(Recorder(database).record([entry]))
        await database.has_read.wait()
        yield database.released, task
    await database.close()


@pytest.mark.parametrize("first", ["gift", "subscription"])
async def test_a_first_payment_of_an_invoice_beside_a_new_ticket_of_its_subscription(
    database: Database, database_url: str, first: str
) -> None:
    """A gift whose invoice was recorded before its payment follows its subscription, whichever of two writers that
    have both read the ledger writes first."""
    known = [subscription("sub_1", "story-1", 0), invoice("in_1", "sub_1"), payment("pi_1")]
    await Recorder(database).record(known)
    joined = event(
        "invoice_payment.paid", 2, {"id": "inpay_1", "invoice": "in_1", "payment": {"payment_intent": "pi_1"}}
    )
    changed = subscription("sub_1", "story-9", 3)
    async with writer_that_has_read(database_url, joined) as gift, writer_that_has_read(database_url, changed) as other:
        for released, task in (gift, other) if first == "gift" else (other, gift):
            released.set()
            await task
    assert await database.fetch(TICKETS) == [("pi_1", "story-9")]
    assert_right(database_url)


async def test_a_payment_that_leaves_one_subscription_s_invoice_for_another_s(
    database: Database, database_url: str
) -> None:
    """A row whose facts name two subscriptions follows the one whose invoice the PaymentIntent names now."""
    events = [
        invoice("in_1", "sub_1"),
        invoice("in_2", "sub_2"),
        payment("pi_1", 1, invoice="in_1"),
        payment("pi_1", 2, invoice="in_2"),
        subscription("sub_2", "story-1", 3),
    ]
    assert await rows_in_every_order(database, database_url, events, TICKETS) == [("pi_1", "story-1")]


async def test_gifts_of_two_subscriptions_in_one_row_follow_their_own(database: Database, database_url: str) -> None:
    """When one session ties gifts of two subscriptions together, each still has its own subscription's ticket."""
    session = {"id": "cs_1", "mode": "payment"}
    events = [
        invoice("in_1", "sub_1", payment_intent="pi_1"),
        invoice("in_2", "sub_2", payment_intent="pi_2"),
        event("checkout.session.completed", 1, {**session, "payment_intent": "pi_1"}),
        event("checkout.session.completed", 2, {**session, "payment_intent": "pi_2"}),
        subscription("sub_1", "story-1", 3),
        subscription("sub_2", "story-9", 3),
    ]
    tied, changed = events[:4], events[4:]
    for order in itertools.permutations(changed):
        await clear(database)
        for entry in (*tied, *order):
            await Recorder(database).record([entry])
        assert await database.fetch(TICKETS) == [("pi_1", "story-1"), ("pi_2", "story-9")]
        assert_right(database_url)

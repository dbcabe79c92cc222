"""Payments written into a test's database, and what the database holds of them."""

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from daemon.ledger.changes import ReceivedEvent
from daemon.ledger.recorder import Recorder
from daemon.ledger.stripe_events import read
from daemon.simulator import scenarios, sender
from daemon.simulator.stripe_objects import Json
from sql.connection import Row
from sql.database import Database
from sql.schemas import PUBLIC
from tests.simulator.oracle import only_donation

NOW = 1_760_000_000
KEY = "a key of the charity's own"
TICKET = "ticket_abc123"

T = TypeVar("T")


def ask(url: str, question: Callable[[Database], Coroutine[Any, Any, T]], *, schema: str = PUBLIC) -> T:
    async def answer() -> T:
        database = Database(
            url,
            pool_size=1,
            statement_timeout_s=60,
            connect_timeout_s=30,
            application_name="donationd test",
            schema=schema,
        )
        try:
            return await question(database)
        finally:
            await database.close()

    return asyncio.run(answer())


def rows(url: str, sql: str, *, schema: str = PUBLIC) -> list[Row]:
    return ask(url, lambda database: database.fetch(sql), schema=schema)


def record(url: str, events: Sequence[Json], *, schema: str = PUBLIC) -> None:
    entries = [ReceivedEvent(read(sender.encode(event), livemode=False, hash_key=KEY.encode())) for event in events]
    ask(url, lambda database: Recorder(database).record(entries), schema=schema)


# Of the tables that a test writes to again and again. To truncate a few rows takes twenty times as long.
EMPTY_LEDGER = ";".join(
    f"DELETE FROM {table}"  # noqa: S608 - names of ours
    for table in (
        *("stripe_events", "stripe_attributions", "stripe_objects", "stripe_billing", "stripe_failed_charges"),
        *("ticket_totals", "ledger_entries"),
    )
)


def add_ticket(url: str, ticket: str) -> None:
    ask(url, lambda database: put_ticket(database, ticket))


async def put_ticket(database: Database, ticket: str, currency: str | None = None) -> None:
    """Adds a ticket, without a row in the audit log."""
    values = {"id": ticket, "currency": currency}
    await database.fetch("INSERT INTO recording_tickets (id, currency) VALUES (%(id)s, %(currency)s)", values)


def scenario(kind: str, number: int = 0, *, ticket: str = "story-1") -> scenarios.Scenario:
    """A scenario of this kind; `number` counts those there are."""
    found = [each for each in scenarios.generate(3, 200, [ticket], now=NOW) if each.kind == kind]
    return found[number]


def named_scenario() -> scenarios.Scenario:
    """A paid scenario whose donor gave a name and an e-mail."""
    found = (each for each in scenarios.generate(3, 200, ["story-1"], now=NOW) if each.kind == "paid")
    return next(each for each in found if only_donation(each).donor == "Smith")


async def fill(database: Database, several: Sequence[scenarios.Scenario], *tickets: str) -> None:
    for ticket in tickets:
        await put_ticket(database, ticket)
    entries = [
        ReceivedEvent(read(sender.encode(event), livemode=False, hash_key=None))
        for each in several
        for event in each.events
    ]
    await Recorder(database).record(entries)


async def record_in_every_order(database: Database, events: Callable[[int], list[ReceivedEvent]]) -> int:
    """Records the events that `events` makes in each order that there is, one batch after the other: first the first
    ones of all orders. Returns how many orders there are.

    Args:
        events: makes the events of one order, whose ids no other order has; it gets the order's number.
    """
    orders = itertools.permutations(range(len(events(0))))
    copies = [[given[place] for place in order] for order, given in ((o, events(n)) for n, o in enumerate(orders))]
    for entries in zip(*copies, strict=True):
        await Recorder(database).record(list(entries))
    return len(copies)

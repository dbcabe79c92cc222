"""Monthly donations reach their subscription's ticket, in any order of events, at a cost that does not grow."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

from daemon.ledger.changes import ReceivedEvent
from daemon.ledger.recorder import Recorder
from daemon.ledger.stripe_events import read
from daemon.ledger.verification import verify
from daemon.simulator.sender import encode
from sql.connection import Row
from sql.database import Database
from sql.snapshot import snapshot
from tests.support.ledger import record_in_every_order

START = 1_793_000_000
MONTH_S = 30 * 86_400
MONTHLY = """
SELECT id, ticket_id, status, amount_minor, donor_last_name, donor_email_hash IS NOT NULL, subscription_id
FROM stripe_attributions ORDER BY id
"""
Json = dict[str, Any]


class Statements(Database):
    """Our driver, counting what it sends and receives."""

    calls = 0
    bytes = 0

    async def fetch(self, sql: str, params: Any = None, *, prepare: str | None = None) -> list[Row]:
        rows = await super().fetch(sql, params, prepare=prepare)
        self.calls += 1
        self.bytes += len(str(params)) + len(str(rows))
        return rows

    async def cost(self, entries: Sequence[ReceivedEvent]) -> tuple[int, int]:
        """Statements, and bytes sent and received, of recording these one by one."""
        before = self.calls, self.bytes
        for entry in entries:
            await Recorder(self).record([entry])
        return self.calls - before[0], self.bytes - before[1]


@pytest.fixture
async def statements(database_url: str) -> Any:
    """The test's own database."""
    database = Statements(
        database_url, pool_size=2, statement_timeout_s=10, connect_timeout_s=5, application_name="donationd test"
    )
    yield database
    await database.close()


def event(event_type: str, at: int, stripe_object: Json) -> ReceivedEvent:
    """An event as it is recorded."""
    id_ = f"evt_{event_type}_{stripe_object['id']}_{at}".replace(".", "_")
    body = {"id": id_, "type": event_type, "created": at, "livemode": False, "data": {"object": stripe_object}}
    return ReceivedEvent(read(encode(body), livemode=False, hash_key=None))


def subscription(ticket: str | None, at: int = START, name: str = "created", *, of: str = "sub_1") -> ReceivedEvent:
    """The subscription says its ticket."""
    metadata = {} if ticket is None else {"ticketId": ticket}
    return event(f"customer.subscription.{name}", at, {"id": of, "metadata": metadata})


def session(reference: str, *, of: str = "sub_1") -> ReceivedEvent:
    """The Checkout Session that began the subscription."""
    body = {"id": f"cs_{of}", "mode": "subscription", "client_reference_id": reference, "metadata": {}}
    return event("checkout.session.completed", START + 7, {**body, "subscription": of, "payment_status": "paid"})


def month(n: int, *, old: bool, of: str = "sub_1") -> list[ReceivedEvent]:
    """The four events of a month, by the API before 2025-03-31 or since; no metadata but the subscription's own."""
    at, paid = START + n * MONTH_S, {"amount": 1500, "currency": "usd", "created": START + n * MONTH_S}
    intent: Json = {**paid, "id": f"pi_{n}", "amount_received": 1500, "status": "succeeded", "latest_charge": f"ch_{n}"}
    charge: Json = {**paid, "id": f"ch_{n}", "amount_captured": 1500, "captured": True, "paid": True}
    charge |= {"status": "succeeded", "payment_intent": f"pi_{n}", "amount_refunded": 0}
    invoice: Json = {"id": f"in_{n}", "customer_name": "Ada Example", "customer_email": "ada@example.org"}
    if old:
        intent["invoice"] = charge["invoice"] = f"in_{n}"
        invoice |= {"payment_intent": f"pi_{n}", "charge": f"ch_{n}", "subscription": of}
        repeated = event("invoice.payment_succeeded", at + 2, invoice)
    else:
        invoice["parent"] = {"subscription_details": {"subscription": of, "metadata": {}}}
        payment = {"id": f"inpay_{n}", "invoice": f"in_{n}", "payment": {"payment_intent": f"pi_{n}"}}
        repeated = event("invoice_payment.paid", at + 2, payment)
    return [
        event("payment_intent.succeeded", at, intent),
        event("charge.succeeded", at, charge),
        event("invoice.paid", at + 1, invoice),
        repeated,
    ]


def monthly(n: int, ticket: str | None, *, of: str = "sub_1") -> Row:
    """The row that a month must have."""
    return (f"pi_{n}", ticket, "PAID", 1500, "Example", True, of)


def assert_right(url: str) -> None:
    """The ledger and its facts agree."""
    with snapshot(url, "donationd test") as moment:
        assert list(verify(moment, lambda _done: None)) == []


@pytest.mark.parametrize("old", [True, False], ids=["before 2025-03", "since 2025-03"])
@pytest.mark.parametrize("source", [subscription, session])
async def test_the_five_events_of_a_month_in_every_order(
    database: Database, database_url: str, old: bool, source: Callable[..., ReceivedEvent]
) -> None:
    """In all 120 orders the donation reaches the ticket that only its subscription, or that one's session, names."""

    def events(n: int) -> list[ReceivedEvent]:
        return [source("story-1", of=f"sub_{n}"), *month(n, old=old, of=f"sub_{n}")]

    await record_in_every_order(database, events)
    expected = [monthly(n, "story-1", of=f"sub_{n}") for n in range(120)]
    assert sorted(await database.fetch(MONTHLY)) == sorted(expected)
    assert_right(database_url)


@pytest.mark.parametrize("old", [True, False], ids=["before 2025-03", "since 2025-03"])
async def test_all_donations_follow_their_subscription(database: Database, database_url: str, old: bool) -> None:
    """When the subscription's own ticket changes, or a session's event is late, all its donations and totals follow."""
    months = range(1, 7)
    recorder = Recorder(database)
    for n in months:
        await recorder.record(month(n, old=old))
    assert await database.fetch(MONTHLY) == [monthly(n, None) for n in months]
    await recorder.record([session("story-3")])
    assert await database.fetch(MONTHLY) == [monthly(n, "story-3") for n in months]
    await recorder.record([subscription("story-1")])
    assert await database.fetch(MONTHLY) == [monthly(n, "story-1") for n in months]
    await recorder.record([subscription("story-2", START + 9, "updated"), *month(7, old=old)])
    assert await database.fetch(MONTHLY) == [monthly(n, "story-2") for n in (*months, 7)]
    assert_right(database_url)


async def test_a_new_donation_and_a_new_ticket_at_the_same_time(database: Database, database_url: str) -> None:
    """A ticket that changes while another writer records a donation reaches it, though each has read before."""
    first, second = Recorder(database), Recorder(database)
    await first.record([subscription("story-1"), *month(1, old=True)])
    real = first._write

    async def write_after_the_other(batch: Any, changes: Any) -> Any:
        first._write = real  # type: ignore[method-assign]
        await second.record(month(2, old=True))
        return await real(batch, changes)

    first._write = write_after_the_other  # type: ignore[method-assign]
    await first.record([subscription("story-2", START + 9, "updated")])
    assert await database.fetch(MONTHLY) == [monthly(1, "story-2"), monthly(2, "story-2")]
    assert_right(database_url)


async def test_a_payment_that_joins_its_subscription_while_it_is_read(database: Database, database_url: str) -> None:
    """A payment becomes one of the subscription after its row was read, for an event that was recorded before, beside a
    new ticket of the subscription: the donation reaches that ticket.
    """
    first, second = Recorder(database), Recorder(database)
    intent, *rest = month(1, old=False)
    await first.record([subscription("story-1"), intent])
    real = first._stored_rows

    async def read_before_the_other(ids: Iterable[str], subscriptions: Iterable[str] = ()) -> Any:
        first._stored_rows = real  # type: ignore[method-assign]
        rows = await real(ids, subscriptions)
        await second.record(rest)
        return rows

    first._stored_rows = read_before_the_other  # type: ignore[method-assign]
    await first.record([subscription("story-2", START + 9, "updated"), intent])
    assert await database.fetch(MONTHLY) == [monthly(1, "story-2")]
    assert_right(database_url)


async def test_an_event_costs_as_much_after_ten_years(statements: Statements, database_url: str) -> None:
    """The 120th month of a subscription needs as many statements, and as many bytes, as the second: for each event one
    that reads and one that writes, and one more for the event that joins a stored invoice with its payment."""
    await statements.cost([subscription("story-1"), *month(1, old=False)])
    second = await statements.cost(month(2, old=False))
    assert second[0] == 2 * len(month(2, old=False)) + 1
    for n in range(3, 120, 13):
        await Recorder(statements).record([entry for each in range(n, n + 13) for entry in month(each, old=False)])
    calls, size = await statements.cost(month(120, old=False))
    assert calls == second[0]
    assert size < second[1] * 1.05  # longer numbers in ids
    again = await statements.cost([subscription("story-1", START + 5, "updated")])
    assert again[1] < second[1]  # the same ticket: no donation is read
    assert_right(database_url)


async def test_hundreds_of_failed_attempts_cost_as_much_as_ten(statements: Statements, database_url: str) -> None:
    """Card testing on one PaymentIntent: neither statements nor bytes per attempt grow, and each is on record."""

    def attempt(n: int) -> list[ReceivedEvent]:
        at = START + n
        tried: Json = {"id": f"ch_{n:04}", "amount": 700, "amount_captured": 0, "amount_refunded": 0, "captured": False}
        tried |= {"paid": False, "status": "failed", "currency": "usd", "created": at, "payment_intent": "pi_1"}
        tried |= {"billing_details": {"name": "Stolen Card", "email": "card@example.org"}}
        intent = {"id": "pi_1", "amount": 700, "currency": "usd", "created": START, "latest_charge": f"ch_{n:04}"}
        intent |= {"metadata": {"ticketId": "story-1"}}
        return [event("charge.failed", at, tried), event("payment_intent.payment_failed", at, intent)]

    for n in range(10):
        await Recorder(statements).record(attempt(n))
    tenth = await statements.cost(attempt(10))
    for n in range(11, 300, 10):
        await Recorder(statements).record([entry for each in range(n, n + 10) for entry in attempt(each)])
    last = await statements.cost(attempt(310))
    assert last[0] == tenth[0]
    assert last[1] < tenth[1] * 1.05
    assert await statements.fetch("SELECT count(*) FROM stripe_objects") == [(303,)]
    assert await statements.fetch("SELECT status, donor_last_name, donor_email_hash FROM stripe_attributions") == [
        ("FAILED", None, None)
    ]
    assert_right(database_url)


async def test_a_failed_charge_kept_apart_still_counts_in_full(database: Database, database_url: str) -> None:
    """A late snapshot that says a failed charge had taken money finds all that was known of it, in every order."""
    failed = {"amount_captured": 0, "captured": False, "paid": False, "status": "failed"}
    took = {"amount_captured": 700, "captured": True, "paid": True, "status": "succeeded"}

    def events(n: int) -> list[ReceivedEvent]:
        base: Json = {"amount": 700, "currency": "usd", "payment_intent": f"pi_{n}", "amount_refunded": 0}
        first, second, third = ({**base, "id": f"ch_{n}_{number}", "created": START + number} for number in range(3))
        return [
            event("charge.failed", START + 30, first | failed),
            event("charge.succeeded", START + 10, first | took),
            event("charge.failed", START + 2, second | failed | {"created": START + 2}),
            event("charge.failed", START + 1, third | failed | {"created": START + 1}),
            event("payment_intent.succeeded", START + 11, {"id": f"pi_{n}", "amount": 700, "amount_received": 700}),
        ]

    await record_in_every_order(database, events)
    found = await database.fetch("SELECT id, status, amount_minor, paid_at, charge_id FROM stripe_attributions")
    assert sorted(found) == sorted((f"pi_{n}", "FAILED", 700, None, f"ch_{n}_1") for n in range(120))
    assert_right(database_url)

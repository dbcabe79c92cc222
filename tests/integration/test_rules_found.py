"""Faults that an independent implementation of the rules found: sets of events, in every order or interleaving."""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from daemon.ledger.changes import APPLIED, ReceivedEvent
from daemon.ledger.recorder import Recorder
from daemon.ledger.stripe_events import CannotApply, read
from daemon.ledger.verification import verify
from daemon.simulator.sender import encode
from sql.connection import Row
from sql.database import Database
from sql.snapshot import snapshot
from tests.support.ledger import EMPTY_LEDGER, record_in_every_order
from tests.support.process import WAIT_S

START = 1_793_000_000
ROWS = """
SELECT id, ticket_id, status, amount_minor, refunded_minor, extract(epoch FROM refunded_at)::bigint, donor_last_name,
       donor_email_hash, charge_id
FROM stripe_attributions ORDER BY id
"""
TICKETS = "SELECT id, ticket_id FROM stripe_attributions ORDER BY id"


def event(event_type: str, second: int, stripe_object: dict[str, Any]) -> ReceivedEvent:
    """An event as it is recorded."""
    id_ = f"evt_{event_type}_{stripe_object['id']}_{second}".replace(".", "_")
    body = {"id": id_, "type": event_type, "created": START + second, "livemode": False}
    return ReceivedEvent(read(encode({**body, "data": {"object": stripe_object}}), livemode=False, hash_key=None))


def subscription(id_: str, ticket: str, second: int) -> ReceivedEvent:
    """A subscription names its ticket."""
    return event("customer.subscription.updated", second, {"id": id_, "metadata": {"ticketId": ticket}})


def invoice(id_: str, subscription_id: str, **fields: object) -> ReceivedEvent:
    """A paid invoice of a subscription; it names its PaymentIntent only where `fields` do."""
    return event("invoice.paid", 1, {"id": id_, "subscription": subscription_id, **fields})


def payment(id_: str, second: int = 1, **fields: object) -> ReceivedEvent:
    """A PaymentIntent that succeeded."""
    return event("payment_intent.succeeded", second, {"id": id_, "amount_received": 500, "currency": "usd", **fields})


def charge(id_: str, second: int, status: str, x: str = "", **fields: object) -> dict[str, Any]:
    """A charge of pi_1, with ids that end with `x`."""
    return {
        "id": f"{id_}{x}", "payment_intent": f"pi_1{x}", "status": status, "created": START + second, **fields
    }  # fmt: skip


async def rows_in_every_order(
    database: Database, url: str, events: Callable[[str], list[ReceivedEvent]], rows: str = ROWS
) -> list[Row]:
    """What stands after the events, which must be the same in every order, and agree with the facts.

    Args:
        events: makes them; their ids end with what it gets.
    """
    orders = await record_in_every_order(database, lambda number: events(f"x{number}"))
    results: defaultdict[str, list[Row]] = defaultdict(list)
    for row in await database.fetch(rows):
        ending = row[0][row[0].rindex("x") :]
        results[ending].append(tuple(v.removesuffix(ending) if isinstance(v, str) else v for v in row))
    assert_right(url)
    assert len(results) == orders
    [result] = {tuple(found) for found in results.values()}
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
async def writer_that_has_read(
    url: str, entry: ReceivedEvent
) -> AsyncIterator[tuple[asyncio.Event, asyncio.Task[object]]]:
    """A writer that has read what the ledger holds, and writes when it is released."""
    database = PausingDatabase(url)
    async with asyncio.timeout(WAIT_S):
        task = asyncio.create_task(Recorder(database).record([entry]))
        await database.has_read.wait()
        yield database.released, task
    await database.close()


@pytest.mark.parametrize("first", ["donation", "subscription"])
async def test_a_first_payment_of_an_invoice_beside_a_new_ticket_of_its_subscription(
    database: Database, database_url: str, first: str
) -> None:
    """A donation whose invoice was recorded before its payment follows its subscription, whichever of two writers that
    have both read the ledger writes first."""
    known = [subscription("sub_1", "story-1", 0), invoice("in_1", "sub_1"), payment("pi_1")]
    await Recorder(database).record(known)
    joined = event(
        "invoice_payment.paid", 2, {"id": "inpay_1", "invoice": "in_1", "payment": {"payment_intent": "pi_1"}}
    )
    changed = subscription("sub_1", "story-9", 3)
    async with (
        writer_that_has_read(database_url, joined) as donation,
        writer_that_has_read(database_url, changed) as other,
    ):
        for released, task in (donation, other) if first == "donation" else (other, donation):
            released.set()
            await task
    assert await database.fetch(TICKETS) == [("pi_1", "story-9")]
    assert_right(database_url)


async def test_a_payment_that_leaves_one_subscription_s_invoice_for_another_s(
    database: Database, database_url: str
) -> None:
    """A row whose facts name two subscriptions follows the one whose invoice the PaymentIntent names now."""

    def events(x: str) -> list[ReceivedEvent]:
        return [
            invoice(f"in_1{x}", f"sub_1{x}"),
            invoice(f"in_2{x}", f"sub_2{x}"),
            payment(f"pi_1{x}", 1, invoice=f"in_1{x}"),
            payment(f"pi_1{x}", 2, invoice=f"in_2{x}"),
            subscription(f"sub_2{x}", "story-1", 3),
        ]

    assert await rows_in_every_order(database, database_url, events, TICKETS) == [("pi_1", "story-1")]


async def test_donations_of_two_subscriptions_in_one_row_follow_their_own(
    database: Database, database_url: str
) -> None:
    """When one session names donations of two subscriptions, each still has its own subscription's ticket."""
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
        await database.fetch(EMPTY_LEDGER)
        for entry in (*tied, *order):
            await Recorder(database).record([entry])
        assert await database.fetch(TICKETS) == [("pi_1", "story-1"), ("pi_2", "story-9")]
        assert_right(database_url)


async def test_a_charge_that_failed_names_no_donor_whatever_comes_first(database: Database, database_url: str) -> None:
    """The donor of a charge that failed once is gone in every order, also where a later snapshot says it succeeded."""
    paid = {"amount": 500, "amount_captured": 500, "captured": True, "paid": True}
    donor = {"name": "Ada Example", "email": "ada@example.org", "address": None}

    def events(x: str) -> list[ReceivedEvent]:
        return [
            event("charge.succeeded", 1, charge("ch_1", 0, "succeeded", x, billing_details=donor, **paid)),
            event("charge.failed", 2, charge("ch_1", 0, "failed", x)),
            event("charge.updated", 3, charge("ch_1", 0, "succeeded", x, **paid)),
        ]

    shown = ("pi_1", None, "PAID", 500, 0, None, None, None, "ch_1")
    assert await rows_in_every_order(database, database_url, events) == [shown]


@pytest.mark.parametrize("place", ["latest_charge", "charges"])
def test_the_connected_account_s_side_of_a_destination_charge_is_nowhere_a_donation(place: str) -> None:
    """A charge with `source_transfer` states nothing, also where a PaymentIntent holds it."""
    transferred = charge("py_1", 0, "succeeded", amount=500, source_transfer="tr_1")
    held = transferred if place == "latest_charge" else {"data": [transferred]}
    assert payment("pi_1", 1, **{place: held}).facts == payment("pi_1").facts


async def test_a_failed_charge_that_was_refunded_keeps_its_time(database: Database, database_url: str) -> None:
    """When the money went back does not depend on whether a failed charge was first set apart from its donation."""

    def events(x: str) -> list[ReceivedEvent]:
        return [
            event("charge.refunded", 1, charge("ch_1", 0, "failed", x, amount_refunded=700)),
            event("charge.failed", 3, charge("ch_2", 1, "failed", x, amount_refunded=700)),
            event("refund.failed", 3, {"id": f"re_1{x}", "amount": 200, "charge": f"ch_2{x}"}),
        ]

    shown = ("pi_1", None, "FAILED", None, 700, START + 1, None, None, "ch_2")
    assert await rows_in_every_order(database, database_url, events) == [shown]


@pytest.mark.parametrize(
    ("event_type", "stripe_object"),
    [
        ("invoice.paid", {"id": "in_1", "subscription": "in_1"}),
        ("invoice.paid", {"id": "in_1", "payment_intent": "pi_1", "subscription": "pi_1"}),
        ("customer.subscription.updated", {"id": "pi_1", "metadata": {"ticketId": "story-1"}}),
        ("charge.failed", {"id": "pi_1", "payment_intent": "pi_2", "status": "failed"}),
    ],
)
def test_an_id_of_another_kind_of_object_is_no_id(event_type: str, stripe_object: dict[str, Any]) -> None:
    """An id that begins like those of another kind of object can't be applied: rows are keyed by an id alone."""
    with pytest.raises(CannotApply, match="another kind of object"):
        event(event_type, 1, stripe_object)


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        ({"payment_intent": "pi_2"}, [("pi_1", "story-1"), ("pi_2", "story-2")]),
        ({"created": START}, [("pi_1", "story-1")]),
    ],
)
async def test_a_failed_charge_that_gets_another_place_leaves_what_an_earlier_one_states(
    database: Database, database_url: str, place: dict[str, Any], shown: list[Row]
) -> None:
    """An earlier failed attempt that was set apart supplies the ticket again, once the later one has left the
    PaymentIntent or was made before it, as no event of Stripe's says."""

    def events(x: str) -> list[ReceivedEvent]:
        stated = {"amount": 500, "currency": "usd"}
        first = charge("ch_1", 1, "failed", x, **stated, metadata={"ticketId": "story-1"})
        second = charge("ch_2", 2, "failed", x, **stated, metadata={"ticketId": "story-2"})
        moved = second | {name: f"{value}{x}" if isinstance(value, str) else value for name, value in place.items()}
        return [event("charge.failed", n, each) for n, each in enumerate((first, second, moved))]

    assert await rows_in_every_order(database, database_url, events, TICKETS) == shown


async def test_one_id_of_a_payment_and_a_failed_charge(database: Database, database_url: str) -> None:
    """Whether the failed charge was first set apart does not decide which donation the PaymentIntent belongs to."""

    def events(x: str) -> list[ReceivedEvent]:
        stated = {"amount": 500, "currency": "usd"}
        failed = (charge(id_, n, "failed", x, **stated) for n, id_ in enumerate(("won", "ch_2")))
        return [payment(f"won{x}"), *(event("charge.failed", 2, each) for each in failed)]

    assert await rows_in_every_order(database, database_url, events, TICKETS) == [("pi_1", None)]


async def test_one_id_of_a_payment_an_invoice_and_a_subscription(database: Database, database_url: str) -> None:
    """What has one id, which begins like no kind's, has its own facts: in every order the donation of another invoice
    gets the ticket of its subscription."""

    def events(x: str) -> list[ReceivedEvent]:
        of_others = subscription(f"won{x}", "story-1", 1), invoice(f"won{x}", f"won{x}")
        return [payment(f"won{x}"), *of_others, invoice(f"in_1{x}", f"won{x}", payment_intent=f"pi_1{x}")]

    assert await rows_in_every_order(database, database_url, events, TICKETS) == [("pi_1", "story-1"), ("won", None)]


async def test_an_id_of_a_payment_and_a_subscription_delays_no_other_event(
    database: Database, database_url: str
) -> None:
    """An invoice whose subscription has the id of a donation is recorded, and so are the other events of its batch."""
    recorder = Recorder(database)
    await recorder.record([payment("won")])
    outcomes = await recorder.record([invoice("in_1", "won", payment_intent="pi_1"), payment("pi_2")])
    assert outcomes == [APPLIED, APPLIED]
    assert_right(database_url)


async def test_what_names_only_a_failed_charge_set_apart_changes_its_donation(
    database: Database, database_url: str
) -> None:
    """A dispute that names only an early failed attempt leaves the money that the PaymentIntent received in its row."""
    attempt = {"amount": 500, "currency": "usd"}
    dispute = {"amount": 200, "status": "needs_response", "currency": "usd"}

    def events(x: str) -> list[ReceivedEvent]:
        failed = [event("charge.failed", n, charge(f"ch_{n}", n, "failed", x, **attempt)) for n in (1, 2)]
        disputed = event("charge.dispute.created", 4, dispute | {"id": f"dp_1{x}", "charge": f"ch_1{x}"})
        return [payment(f"pi_1{x}", 3), *failed, disputed]

    rows = "SELECT id, status, amount_minor, disputed_minor, paid_at IS NOT NULL FROM stripe_attributions"
    assert await rows_in_every_order(database, database_url, events, rows) == [("pi_1", "DISPUTED", 500, 200, True)]

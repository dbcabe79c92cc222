"""What the ledger promises, on a real PostgreSQL."""

import asyncio
import random

from daemon import payment_lives, simulate
from daemon.facts import StripeEvent, read
from daemon.ledger import Entry, Ledger
from sql.database import Database

NOW = 1_760_000_000
TICKETS = ("story-1", "story-2")


def reduced(event: dict[str, object]) -> StripeEvent:
    return read(simulate.encode(event), livemode=False, hash_key=None)


async def shown(database: Database) -> dict[str, tuple[object, ...]]:
    rows = await database.fetch(
        "SELECT id, ticket_id, amount_minor, currency, refunded_minor, disputed_minor, status, donor_last_name,"
        " donor_country FROM stripe_attributions"
    )
    return {row[0]: row[1:] for row in rows}


def expected(lives: list[payment_lives.Life]) -> dict[str, tuple[object, ...]]:
    return {
        e.donation: (
            e.ticket,
            e.amount_minor,
            e.currency,
            e.refunded_minor,
            e.disputed_minor,
            e.status,
            e.donor,
            e.country,
        )
        for e in (life.expected for life in lives)
        if e is not None
    }


TOTALS_FROM_DONATIONS = """
SELECT ticket_id, currency, sum(amount_minor)::bigint, sum(refunded_minor)::bigint, sum(disputed_minor)::bigint,
       count(*) FILTER (WHERE status = 'PAID'), count(*) FILTER (WHERE status = 'REFUNDED'),
       count(*) FILTER (WHERE status = 'DISPUTED'), count(*) FILTER (WHERE status = 'PAID' AND refunded_minor > 0)
FROM stripe_attributions WHERE paid_at IS NOT NULL AND ticket_id IS NOT NULL GROUP BY 1, 2 ORDER BY 1, 2
"""
TOTALS_KEPT = """
SELECT ticket_id, currency, paid_minor, refunded_minor, disputed_minor, paid, refunded, disputed, partially_refunded
FROM ticket_totals WHERE paid_minor <> 0 OR paid <> 0 ORDER BY 1, 2
"""


async def test_any_order_duplicates_batches_and_writers_give_the_models_ledger(database: Database) -> None:
    """Whatever the order, the duplicates, the batches and the writers beside each other: the model's ledger."""
    lives = payment_lives.lives(11, 120, TICKETS, now=NOW)
    events = payment_lives.shuffled(lives, seed=3, duplicates=0.3)
    rng = random.Random(5)
    writers: list[list[list[Entry]]] = [[], [], []]
    while events:
        size = rng.randint(1, 40)
        batch, events = events[:size], events[size:]
        writers[rng.randrange(3)].append([Entry(reduced(event)) for event in batch])

    async def write(batches: list[list[Entry]]) -> None:
        ledger = Ledger(database)
        for batch in batches:
            await ledger.record(batch)

    await asyncio.gather(*map(write, writers))
    assert await shown(database) == expected(lives)
    assert await database.fetch(TOTALS_FROM_DONATIONS) == await database.fetch(TOTALS_KEPT)


async def test_a_session_and_its_payment_become_one_donation(database: Database) -> None:
    """A session's donation goes when its PaymentIntent is known, and its money is counted once."""
    life = next(life for life in payment_lives.lives(1, 40, TICKETS, now=NOW) if life.kind == "paid")
    ledger = Ledger(database)
    for event in life.events:
        await ledger.record([Entry(reduced(event))])
        assert len(await shown(database)) == 1
    assert await shown(database) == expected([life])


async def test_an_event_is_new_once_and_a_failed_one_until_it_is_applied(database: Database) -> None:
    """A failed event is not "seen": it is new again when it comes back, and no longer once applied."""
    event = reduced(payment_lives.lives(1, 1, TICKETS, now=NOW)[0].events[0])
    failed = StripeEvent(event.id, event.type, event.created, event.livemode, None)
    ledger = Ledger(database)
    assert await ledger.record([Entry(failed, "scrubbed")]) == {event.id}
    assert await database.fetch("SELECT error FROM stripe_events") == [("scrubbed",)]
    assert await ledger.record([Entry(event)]) == {event.id}
    assert await database.fetch("SELECT error FROM stripe_events") == [(None,)]
    assert await ledger.record([Entry(event)]) == set()
    assert await ledger.record([Entry(failed, "scrubbed")]) == set()
    assert await database.fetch("SELECT error FROM stripe_events") == [(None,)]

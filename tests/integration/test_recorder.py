"""What the ledger promises, on a real PostgreSQL."""

import asyncio
import random

import pytest

from daemon.ledger.changes import Outcome, ReceivedEvent, Result
from daemon.ledger.facts import FactName, Facts, Family, ObjectFacts
from daemon.ledger.recorder import Recorder
from daemon.ledger.stripe_events import StripeEvent, read
from daemon.ledger.verification import verify
from daemon.ledger.written_rows import WrittenRows
from daemon.simulator import scenarios, sender
from sql.database import Database
from sql.errors import StatementRejected
from sql.snapshot import snapshot
from tests.simulator.oracle import expected_donations, only_donation

NOW = 1_760_000_000
TICKETS = ("story-1", "story-2")


def reduced(event: dict[str, object]) -> StripeEvent:
    return read(sender.encode(event), livemode=False, hash_key=None)


def results(outcomes: list[Outcome]) -> list[Result]:
    return [outcome.result for outcome in outcomes]


async def shown(database: Database) -> dict[str, tuple[object, ...]]:
    rows = await database.fetch(
        "SELECT id, ticket_id, amount_minor, currency, refunded_minor, disputed_minor, status, donor_last_name,"
        " donor_country FROM stripe_attributions"
    )
    return {row[0]: row[1:] for row in rows}


def expected(generated: list[scenarios.Scenario]) -> dict[str, tuple[object, ...]]:
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
        for e in (end for scenario in generated for end in expected_donations(scenario))
    }


TOTALS_FROM_DONATIONS = """
SELECT coalesce(ticket_id, ''), currency, sum(amount_minor)::bigint, sum(refunded_minor)::bigint,
       sum(disputed_minor)::bigint,
       count(*) FILTER (WHERE status = 'PAID'), count(*) FILTER (WHERE status = 'REFUNDED'),
       count(*) FILTER (WHERE status = 'DISPUTED'), count(*) FILTER (WHERE status = 'PAID' AND refunded_minor > 0)
FROM stripe_attributions WHERE paid_at IS NOT NULL GROUP BY 1, 2 ORDER BY 1, 2
"""
TOTALS_KEPT = """
SELECT ticket_id, currency, paid_minor, refunded_minor, disputed_minor, paid, refunded, disputed, partially_refunded
FROM ticket_totals WHERE paid_minor <> 0 OR paid <> 0 ORDER BY 1, 2
"""


async def test_any_order_duplicates_batches_and_writers_give_the_models_ledger(database: Database) -> None:
    """Whatever the order, the duplicates, the batches and the writers beside each other: the model's ledger."""
    generated = scenarios.generate(11, 120, TICKETS, now=NOW)
    events = scenarios.shuffled(generated, seed=3, duplicates=0.3)
    rng = random.Random(5)
    writers: list[list[list[ReceivedEvent]]] = [[], [], []]
    while events:
        size = rng.randint(1, 40)
        batch, events = events[:size], events[size:]
        writers[rng.randrange(3)].append([ReceivedEvent(reduced(event)) for event in batch])

    async def write(batches: list[list[ReceivedEvent]]) -> None:
        recorder = Recorder(database)
        for batch in batches:
            await recorder.record(batch)

    await asyncio.gather(*map(write, writers))
    assert await shown(database) == expected(generated)
    assert await database.fetch(TOTALS_FROM_DONATIONS) == await database.fetch(TOTALS_KEPT)


async def test_a_session_and_its_payment_become_one_donation(database: Database) -> None:
    """A session's donation goes when its PaymentIntent is known, and its money is counted once."""
    scenario = next(scenario for scenario in scenarios.generate(1, 40, TICKETS, now=NOW) if scenario.kind == "paid")
    recorder = Recorder(database)
    for event in scenario.events:
        await recorder.record([ReceivedEvent(reduced(event))])
        assert len(await shown(database)) == 1
    assert await shown(database) == expected([scenario])


def entry(at: int, kind: str, **shown: object) -> ReceivedEvent:
    """An event of that second about one object."""
    event = {"id": f"evt_{at}", "type": kind, "created": at, "livemode": False, "data": {"object": shown}}
    return ReceivedEvent(reduced(event))


def differences(url: str) -> list[str]:
    with snapshot(url, "donationd test") as moment:
        return list(verify(moment, lambda _done: None))


PAID = {"amount_received": 500, "amount": 500, "currency": "usd"}


@pytest.mark.parametrize(("first", "then"), [("pi_1", "pi_2"), ("pi_2", "pi_1")])
async def test_the_money_of_linked_donations_is_counted_once(
    database: Database, database_url: str, first: str, then: str
) -> None:
    """A session has named two PaymentIntents, so one row has the facts of two donations: a change of one of them takes
    what it contributed before out of the totals."""
    recorder = Recorder(database)
    for event in (
        entry(NOW, "payment_intent.succeeded", id="pi_1", **PAID),
        entry(NOW + 1, "payment_intent.succeeded", id="pi_2", **PAID),
        entry(NOW + 2, "checkout.session.completed", id="cs_1", mode="payment", payment_intent=first),
        entry(NOW + 3, "checkout.session.completed", id="cs_1", mode="payment", payment_intent=then),
        entry(NOW + 4, "refund.created", id="re_1", payment_intent="pi_2", amount=100, currency="usd", created=NOW + 4),
        entry(NOW + 5, "refund.created", id="re_2", payment_intent="pi_1", amount=200, currency="usd", created=NOW + 5),
    ):
        await recorder.record([event])
    assert await database.fetch("SELECT id, root FROM stripe_attributions ORDER BY id") == [
        ("pi_1", "pi_1"),
        ("pi_2", "pi_1"),
    ]
    assert await database.fetch(TOTALS_FROM_DONATIONS) == await database.fetch(TOTALS_KEPT)
    assert differences(database_url) == []


async def test_a_linked_donation_goes_when_its_payment_is_known(database: Database, database_url: str) -> None:
    """A charge that counted as a donation of its own in another one's row belongs to a PaymentIntent."""
    charge = {"amount": 500, "amount_captured": 500, "paid": True, "status": "succeeded", "currency": "usd"}
    refund = {"id": "re_1", "amount": 100, "currency": "usd", "created": NOW}
    recorder = Recorder(database)
    for event in (
        entry(NOW, "refund.created", **refund, charge="ch_1"),
        entry(NOW + 1, "refund.updated", **refund, charge="ch_2"),
        entry(NOW + 2, "charge.succeeded", id="ch_2", **charge),
        entry(NOW + 3, "charge.updated", id="ch_2", payment_intent="pi_2", **charge),
    ):
        await recorder.record([event])
    assert sorted(await shown(database)) == ["ch_1", "pi_2"]
    assert differences(database_url) == []


async def test_failed_charges_follow_their_payment_into_another_row(database: Database, database_url: str) -> None:
    """A PaymentIntent's failed charges are kept apart; when its facts move to another row, an event about such a charge
    finds that row."""
    failed = {"paid": False, "status": "failed", "amount": 500, "currency": "usd", "payment_intent": "pi_2"}
    recorder = Recorder(database)
    for event in (
        *(entry(NOW + n, "charge.failed", id=f"ch_{n}", created=NOW + n, **failed) for n in range(1, 5)),
        entry(NOW + 5, "payment_intent.succeeded", id="pi_1", **PAID),
        entry(NOW + 6, "checkout.session.completed", id="cs_1", mode="payment", payment_intent="pi_1"),
        entry(NOW + 7, "checkout.session.completed", id="cs_1", mode="payment", payment_intent="pi_2"),
    ):
        await recorder.record([event])
    [(kept,)] = await database.fetch("SELECT count(*) FROM stripe_failed_charges")
    assert kept > 0
    assert await database.fetch("SELECT DISTINCT root FROM stripe_objects") == [("pi_1",)]
    again = entry(NOW + 8, "charge.updated", id="ch_1", created=NOW + 1, **failed)
    assert results(await recorder.record([again])) == [Result.APPLIED]
    assert differences(database_url) == []


async def test_the_short_statement_writes_what_the_long_one_writes(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Event by event: the rows of all tables are the same, whether the short statement may write or not."""
    generated = scenarios.generate(12, 60, TICKETS, now=NOW)
    written = []
    for may in (True, False):
        if not may:
            monkeypatch.setattr(WrittenRows, "are_usual", False)
        for event in scenarios.shuffled(generated, seed=3):
            await Recorder(database).record([ReceivedEvent(reduced(event))])
        written.append([await database.fetch(f"TABLE {table} ORDER BY 1, 2") for table in WRITTEN])
        written[-1].append(
            await database.fetch("SELECT seq, donation_id, kind, amount_minor, cause FROM ledger_entries")
        )
        await database.fetch(f"TRUNCATE stripe_events, ledger_entries, {', '.join(WRITTEN)}")
    assert written[0] == written[1]


WRITTEN = ("stripe_attributions", "stripe_objects", "ticket_totals", "stripe_billing", "stripe_failed_charges")


async def test_a_donation_that_was_lost_by_other_hands_is_made_again(database: Database) -> None:
    """After a row was deleted by hand whose objects are still named, all events of its batch are recorded."""
    generated = scenarios.generate(2, 2, TICKETS, now=NOW)
    entries = [ReceivedEvent(reduced(event)) for scenario in generated for event in scenario.events]
    recorder = Recorder(database)
    await recorder.record(entries[:1])
    await database.fetch("DELETE FROM stripe_attributions")
    assert results(await recorder.record(entries)) == [Result.DUPLICATE, *[Result.APPLIED] * (len(entries) - 1)]
    assert await shown(database) == expected(generated)


async def test_null_is_an_id_like_any_other(database: Database) -> None:
    """Whatever word an id is, its donation is found again."""
    recorder = Recorder(database)
    for number, amount in enumerate((500, 700)):
        payment: ObjectFacts = {FactName.SEEN: NOW, FactName.AMOUNT: [NOW + number, amount]}
        charge: ObjectFacts = {FactName.SEEN: NOW, FactName.PAYMENT_INTENT: [NOW, "NULL"]}
        facts: Facts = {Family.PAYMENT_INTENT: {"NULL": payment}, Family.CHARGE: {"null": charge}}
        event = StripeEvent(f"evt_{number}", "payment_intent.created", NOW + number, False, facts)
        assert results(await recorder.record([ReceivedEvent(event)])) == [Result.APPLIED]
    assert [(id_, row[1]) for id_, row in (await shown(database)).items()] == [("NULL", 700)]


async def test_an_event_the_database_refuses_fails_alone(database: Database) -> None:
    """One event in a batch that PostgreSQL does not take is kept as failed, the others are applied; later it is too."""
    generated = scenarios.generate(2, 12, TICKETS, now=NOW)
    entries = [ReceivedEvent(reduced(event)) for scenario in generated for event in scenario.events]
    refused = generated[5]
    await database.fetch(
        f"ALTER TABLE stripe_attributions ADD CONSTRAINT refusal CHECK (id <> '{only_donation(refused).donation}')"
    )
    recorder = Recorder(database)
    outcomes = await recorder.record(entries)
    failures = {
        entry.event.id: outcome.error
        for entry, outcome in zip(entries, outcomes, strict=True)
        if outcome.result is Result.FAILED
    }
    assert set(results(outcomes)) == {Result.APPLIED, Result.IGNORED, Result.FAILED}
    others = [scenario for scenario in generated if scenario is not refused]
    assert {id_: row for id_, row in (await shown(database)).items() if id_ in expected(others)} == expected(others)
    assert set(failures) <= {event["id"] for event in refused.events}
    assert set(failures.values()) == {"the database refused it: check violation (refusal)"}
    failed = await database.fetch("SELECT id, error FROM stripe_events WHERE error IS NOT NULL")
    assert dict(failed) == failures
    await database.fetch("ALTER TABLE stripe_attributions DROP CONSTRAINT refusal")
    again = results(await recorder.record(entries))
    assert again == [Result.APPLIED if entry.event.id in failures else Result.DUPLICATE for entry in entries]
    assert await shown(database) == expected(generated)


@pytest.mark.parametrize("sqlstate", ["40001", "40P01"])
async def test_a_conflict_is_tried_again(database: Database, sqlstate: str) -> None:
    """A serialization failure or a deadlock is no reason to give up, nor to apply anything twice."""
    [scenario] = scenarios.generate(2, 1, TICKETS, now=NOW)
    await database.fetch(
        f"""
        CREATE SEQUENCE attempts;
        CREATE FUNCTION conflict() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF nextval('attempts') <= 3 THEN RAISE EXCEPTION 'conflict' USING ERRCODE = '{sqlstate}'; END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER conflict AFTER INSERT ON stripe_attributions FOR EACH ROW EXECUTE FUNCTION conflict();
        """
    )
    outcomes = await Recorder(database).record([ReceivedEvent(reduced(event)) for event in scenario.events])
    assert set(results(outcomes)) == {Result.APPLIED}
    assert await database.fetch("SELECT last_value FROM attempts") == [(4,)]
    assert await shown(database) == expected([scenario])


async def test_a_schema_that_is_wrong_is_no_event_s_fault(database: Database) -> None:
    """Without a table nothing is recorded as failed: the whole batch is handed back."""
    [scenario] = scenarios.generate(2, 1, TICKETS, now=NOW)
    await database.fetch("ALTER TABLE ticket_totals RENAME TO elsewhere")
    with pytest.raises(StatementRejected, match="undefined table"):
        await Recorder(database).record([ReceivedEvent(reduced(event)) for event in scenario.events])
    assert await database.fetch("SELECT count(*) FROM stripe_events") == [(0,)]


async def test_an_event_is_new_once_and_a_failed_one_until_it_is_applied(database: Database) -> None:
    """A failed event is not "seen": it is new again when it comes back, and no longer once applied."""
    event = reduced(scenarios.generate(1, 1, TICKETS, now=NOW)[0].events[0])
    failed = StripeEvent(event.id, event.type, event.created, event.livemode, None)
    recorder = Recorder(database)
    assert await recorder.record([ReceivedEvent(failed, "scrubbed")]) == [Outcome(Result.FAILED, "scrubbed")]
    assert await database.fetch("SELECT error FROM stripe_events") == [("scrubbed",)]
    assert results(await recorder.record([ReceivedEvent(event)])) == [Result.APPLIED]
    assert await database.fetch("SELECT error FROM stripe_events") == [(None,)]
    assert results(await recorder.record([ReceivedEvent(event)])) == [Result.DUPLICATE]
    assert results(await recorder.record([ReceivedEvent(failed, "scrubbed")])) == [Result.DUPLICATE]
    assert await database.fetch("SELECT error FROM stripe_events") == [(None,)]


async def test_each_copy_of_an_event_in_one_batch_has_its_own_outcome(database: Database) -> None:
    """The second copy of an event that is applied or changes nothing is a duplicate; each copy of one that can't be
    applied fails, for it was not seen before."""
    event = reduced(scenarios.generate(1, 1, TICKETS, now=NOW)[0].events[0])
    ignored = StripeEvent("evt_ignored", "charge.expired", NOW, False, None, "this type changes nothing")
    failed = ReceivedEvent(StripeEvent("evt_failed", "charge.updated", NOW, False, None), "scrubbed")
    batch = [ReceivedEvent(event), failed, ReceivedEvent(ignored)]
    failure = Outcome(Result.FAILED, "scrubbed")
    assert await Recorder(database).record([*batch, *batch]) == [
        *(Outcome(Result.APPLIED), failure, Outcome(Result.IGNORED)),
        *(Outcome(Result.DUPLICATE), failure, Outcome(Result.DUPLICATE)),
    ]

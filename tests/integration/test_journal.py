"""The journal in PostgreSQL: booked with the donation, whatever release wrote the row last (SPEC 9)."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest
from click.testing import CliRunner

from daemon.cli.main import main
from daemon.ledger import operator_actions, projection
from daemon.ledger.changes import ReceivedEvent
from daemon.ledger.reader import Ledger
from daemon.ledger.rebuild import count_rows, rebuild
from daemon.ledger.recorder import Recorder
from daemon.ledger.stripe_events import read
from daemon.ledger.verification import verify
from daemon.simulator import sender
from daemon.simulator.scenarios import shuffled
from daemon.simulator.stripe_objects import Json
from sql.database import Database
from sql.snapshot import snapshot
from tests.simulator.oracle import expected_donations, only_donation
from tests.simulator.random_payments import RandomScenario, random_scenario
from tests.support.former_release import FormerRelease, WithoutDigest
from tests.support.journal_model import BOOKED, booked_rows
from tests.support.ledger import ask, rows
from tests.support.postgres import Clone, MakeTemplate

AT = 1_760_000_000
TICKETS = ("story-1", "story-2")
REBUILT = f"rebuild:{projection.RULES_VERSION}"
Open = Callable[[type[Database]], Database]


@pytest.fixture
async def connect(database_url: str) -> AsyncIterator[Open]:
    """Opens a writer's own connection, as one release or the other."""
    async with AsyncExitStack() as stack:

        def connect(kind: type[Database]) -> Database:
            opened = kind(
                database_url,
                pool_size=1,
                statement_timeout_s=10,
                connect_timeout_s=5,
                application_name="donationd test",
            )
            stack.push_async_callback(opened.close)
            return opened

        yield connect


def random_scenarios(seed: int, count: int) -> list[RandomScenario]:
    rng = random.Random(seed)
    return [random_scenario(rng, TICKETS, key=f"{n}", start=AT) for n in range(count)]


def entry(event: Json) -> ReceivedEvent:
    return ReceivedEvent(read(sender.encode(event), livemode=False, hash_key=None))


async def write(writers: Sequence[Database], events: Sequence[Json], seed: int) -> None:
    """All events, in batches of many sizes that the writers take at the same time."""
    rng = random.Random(seed)
    rest, batches = [entry(event) for event in events], []
    while rest:
        size = rng.choice((1, 2, 5, 20))
        batches.append(rest[:size])
        rest = rest[size:]
    waiting = iter(batches)

    async def work(database: Database) -> None:
        recorder = Recorder(database)
        for batch in waiting:
            await recorder.record(batch)

    await asyncio.gather(*map(work, writers))


def differences(url: str) -> list[str]:
    with snapshot(url, "donationd test") as moment:
        return list(verify(moment, lambda _done: None))


# --- Readers


SEEN = """
SELECT (SELECT coalesce(max(seq), 0) FROM ledger_entries),
       ARRAY(SELECT ARRAY[ticket_id, currency, paid_minor::text, refunded_minor::text, disputed_minor::text]
             FROM ticket_totals ORDER BY 1)
"""


async def test_at_every_seq_the_entries_add_up_to_the_totals_of_that_moment(database: Database, connect: Open) -> None:
    """A reader beside three writers sees a last entry and totals, and all entries up to it add up to these."""
    scenarios = random_scenarios(41, 150)
    writers = [connect(Database) for _ in range(3)]
    done = asyncio.Event()
    seen: dict[int, list[list[str]]] = {}

    async def look() -> None:
        while not done.is_set():
            [(seq, totals)] = await database.fetch(SEEN)
            assert seen.setdefault(seq, totals) == totals

    async def work() -> None:
        await write(writers, shuffled(scenarios, 1, duplicates=0.5), 2)
        done.set()

    await asyncio.gather(look(), work())
    entries = await database.fetch(
        "SELECT seq, ticket_id, currency, kind, amount_minor, recorded_at FROM ledger_entries ORDER BY seq"
    )
    assert [row[0] for row in entries] == list(range(1, len(entries) + 1))
    assert [row[5] for row in entries] == sorted(row[5] for row in entries)
    assert len(seen) > 5
    for seq, totals in seen.items():
        sums: Counter[Any] = Counter()
        for _, *key, amount, _ in entries[:seq]:
            sums[tuple(key)] += amount
        kept = {
            (ticket, currency, kind): int(amount)
            for ticket, currency, *amounts in totals
            for kind, amount in zip(("payment", "refund", "dispute"), amounts, strict=True)
        }
        assert +sums == +Counter(kept)


async def test_a_clock_that_goes_backwards_is_not_followed(database: Database) -> None:
    """No entry is recorded before the entry before it, whatever the server's clock says."""
    scenarios = random_scenarios(42, 20)
    await write([database], scenarios[0].events, 1)
    later = "SELECT now() + interval '1 day', 1, now(), 5, 'payment', 'pi_x', '', 'USD', 'pi_x', 'evt_x'"
    columns = "recorded_at, seq, effective_at, amount_minor, kind, donation_id, ticket_id, currency, object_id, cause"
    await database.fetch(f"TRUNCATE ledger_entries; INSERT INTO ledger_entries ({columns}) {later}")
    await write([database], [event for scenario in scenarios[1:] for event in scenario.events], 1)
    [(least, first)] = await database.fetch(
        "SELECT min(recorded_at), max(recorded_at) FILTER (WHERE seq = 1) FROM ledger_entries"
    )
    assert least == first


# --- Releases


async def test_what_the_former_release_writes_is_booked_later(
    database: Database, database_url: str, connect: Open
) -> None:
    """A rolling upgrade: writers of both releases at once, then only new ones. `verify` finds no difference, and
    counts the rows that are left; after `rebuild` the journal is the model's."""
    scenarios = random_scenarios(43, 120)
    events = shuffled(scenarios, 1, duplicates=0.3)
    half = len(events) // 2
    await write([connect(Database), connect(FormerRelease), connect(FormerRelease)], events[:half], 1)
    assert await count_rows(database) > 0
    assert differences(database_url) == []
    await write([connect(Database), connect(Database)], events[half:], 2)
    assert differences(database_url) == []
    left = await count_rows(database)
    assert left > 0
    assert await rebuild(database, lambda _done: None) == left
    assert await database.fetch(BOOKED) == booked_rows(scenarios)
    assert differences(database_url) == []
    assert await count_rows(database) == 0


async def test_migrating_books_what_is_stored_already(database: Database, database_url: str, connect: Open) -> None:
    """`donationd migrate` creates the entries of a ledger that the former release filled, beside live traffic; recorded
    now, effective when the money moved. A second run finds nothing left."""
    scenarios = random_scenarios(47, 60)
    events = shuffled(scenarios, 1)
    await write([connect(FormerRelease)], events[:-50], 1)
    [(begun,)] = await database.fetch("SELECT now()")
    stored = await count_rows(database)
    run = partial(CliRunner().invoke, main, ["migrate", "--json"], env={"DATABASE_URL": database_url})
    done, _ = await asyncio.gather(asyncio.to_thread(run), write([connect(Database)], events[-50:], 1))
    assert done.exit_code == 0, done.output
    assert 0 < json.loads(done.stdout)["booked"] <= stored
    assert await database.fetch(BOOKED) == booked_rows(scenarios)
    [(recorded, causes)] = await database.fetch(
        "SELECT min(recorded_at), array_agg(DISTINCT cause) FILTER (WHERE cause NOT LIKE 'evt%%') FROM ledger_entries"
    )
    assert recorded > begun
    assert causes == [REBUILT]
    assert json.loads((await asyncio.to_thread(run)).stdout)["booked"] == 0


async def test_the_next_write_books_all_of_a_row(database: Database, connect: Open) -> None:
    """Of a donation that only the former release wrote, the first event that says anything new books everything."""
    scenario = next(
        each for each in random_scenarios(46, 40) if each.steps[0] == "receives all" and len(booked_rows([each])) > 3
    )
    former = connect(FormerRelease)
    await write([former], scenario.events[:-1], 1)
    assert await database.fetch("SELECT count(*) FROM ledger_entries") == [(0,)]
    await write([database], scenario.events, 1)
    assert await database.fetch(BOOKED) == booked_rows([scenario])


async def test_a_donation_that_the_former_release_merged_is_booked_out(database: Database, connect: Open) -> None:
    """A session's donation has entries; the former release gives its money to the PaymentIntent: the next write takes
    them from the session."""
    session = {"id": "cs_1", "mode": "payment", "payment_status": "paid", "amount_total": 500, "currency": "usd"}
    intent = {"id": "pi_1", "amount_received": 500, "currency": "usd"}
    paid = event_of("checkout.session.completed", AT, {**session, "created": AT})
    linked = event_of("checkout.session.async_payment_succeeded", AT + 1, {**session, "payment_intent": "pi_1"})
    succeeded = event_of("payment_intent.succeeded", AT + 2, intent)
    await write([database], [paid], 1)
    assert await database.fetch(BOOKED) == [("cs_1", "", "USD", "payment", "cs_1", AT, 500)]
    await write([connect(FormerRelease)], [linked], 1)
    await write([database], [succeeded], 1)
    assert await database.fetch(BOOKED) == [("pi_1", "", "USD", "payment", "pi_1", AT + 2, 500)]


def event_of(kind: str, at: int, shown: Json) -> Json:
    return {"id": f"evt_{at}", "type": kind, "created": at, "livemode": False, "data": {"object": shown}}


async def test_the_digest_of_entries_is_true_for_its_version_only(database: Database, connect: Open) -> None:
    """A release that writes no digest moves a donation to another ticket, and this one moves it back: its entries are
    those of the digest again, and the journal follows both moves."""
    former = connect(WithoutDigest)
    paid = event_of("payment_intent.succeeded", AT, {"id": "pi_1", "amount_received": 500, "currency": "usd"})
    await write([database], [paid], 1)
    for writer, ticket, at_us in ((database, "story-1", 1), (former, "story-2", 2), (database, "story-1", 3)):
        facts = await Ledger(database).facts_of("pi_1")
        assert facts is not None
        await Recorder(writer).record([operator_actions.assign(facts, "pi_1", ticket, actor="ann", at_us=at_us)])
        assert await database.fetch(BOOKED) == [("pi_1", ticket, "USD", "payment", "pi_1", AT, 500)]


async def test_writers_with_and_without_a_digest_keep_the_journal_right(
    database: Database, database_url: str, connect: Open
) -> None:
    """A rolling upgrade to the release that keeps a digest of a row's entries: the journal is the model's."""
    scenarios = random_scenarios(48, 120)
    writers = [connect(Database), connect(WithoutDigest), connect(Database)]
    await write(writers, shuffled(scenarios, 1, duplicates=0.3), 1)
    assert await database.fetch(BOOKED) == booked_rows(scenarios)
    assert differences(database_url) == []


# --- Changes


async def test_a_change_of_ticket_is_booked_out_and_in(database: Database) -> None:
    """Each movement leaves the old ticket and enters the new one with the same kind, object and time, for the
    operator's action."""
    scenario = next(
        each for each in random_scenarios(45, 60) if len(expected_donations(each)) == 1 and len(booked_rows([each])) > 3
    )
    donation = only_donation(scenario).donation
    await write([database], scenario.events, 1)
    before = await database.fetch(BOOKED)
    facts = await Ledger(database).facts_of(donation)
    assert facts is not None
    await Recorder(database).record(
        [operator_actions.assign(facts, donation, "story-9", actor="ann", at_us=AT * 1_000_000)]
    )
    assert await database.fetch(BOOKED) == [(row[0], "story-9", *row[2:]) for row in before]
    [(action,)] = await database.fetch("SELECT id::text FROM operator_acts")
    moved = await database.fetch(
        "SELECT ticket_id, kind, object_id, extract(epoch FROM effective_at)::bigint, amount_minor"
        " FROM ledger_entries WHERE cause = %s ORDER BY seq",
        [action],
    )
    out = sorted((row[3:6], -row[6]) for row in before)
    assert sorted((tuple(row[1:4]), row[4]) for row in moved if row[0] != "story-9") == out
    assert sorted((tuple(row[1:4]), -row[4]) for row in moved if row[0] == "story-9") == out


async def test_each_entry_names_its_cause(database: Database) -> None:
    """An entry is booked for the event that said something new, or for a rebuild by these rules."""
    charge = {
        "id": "ch_1",
        "amount": 500,
        "amount_captured": 500,
        "paid": True,
        "status": "succeeded",
        "currency": "usd",
    }
    refund = {"id": "re_1", "amount": 200, "charge": "ch_1", "created": AT + 5, "currency": "usd", "status": "pending"}
    paid, refunded = event_of("charge.succeeded", AT, charge), event_of("refund.created", AT + 5, refund)
    await Recorder(database).record([entry(paid), entry(refunded), entry(paid)])
    causes = "SELECT kind, amount_minor, cause FROM ledger_entries ORDER BY seq"
    assert await database.fetch(causes) == [("payment", 500, f"evt_{AT + 5}"), ("refund", 200, f"evt_{AT + 5}")]
    await database.fetch("DELETE FROM ledger_entries; UPDATE stripe_attributions SET rules_version = 0")
    await rebuild(database, lambda _done: None)
    assert await database.fetch(causes) == [("payment", 500, REBUILT), ("refund", 200, REBUILT)]


# --- Verification


@pytest.fixture(scope="module")
def filled(make_template: MakeTemplate) -> str:
    """Payments at random."""
    events = [event for scenario in random_scenarios(46, 20) for event in scenario.events]
    return make_template(lambda url: ask(url, lambda database: write([database], events, 1)))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("UPDATE ledger_entries SET amount_minor = amount_minor + 1 WHERE seq = 5", "add up to"),
        ("UPDATE ledger_entries SET effective_at = effective_at + interval '1 s' WHERE seq = 5", "should be"),
        ("UPDATE ledger_entries SET recorded_at = recorded_at - interval '1 h' WHERE seq = 5", "recorded before"),
        ("DELETE FROM ledger_entries WHERE seq = 5", "its last seq is"),
        ("UPDATE ledger_entries SET donation_id = 'pi_other' WHERE seq = 5", "is 0, should be"),
        (
            "INSERT INTO ledger_entries SELECT max(seq) + 1, max(recorded_at), now(), 5, 'payment', 'pi_x', 'story-1',"
            " 'USD', 'pi_x', 'evt_x' FROM ledger_entries",
            "add up to",
        ),
        (
            "INSERT INTO ledger_entries SELECT last + n, at, now(), CASE n WHEN 1 THEN 5 ELSE -5 END, 'payment',"
            " 'pi_stray_' || n, 'story-1', 'USD', 'ch_x', 'evt_x' FROM generate_series(1, 2) n,"
            " (SELECT max(seq) AS last, max(recorded_at) AS at FROM ledger_entries) m",
            "pi_stray_2 add up to -5, and no such donation is known",
        ),
    ],
    ids=["amount", "time", "clock", "deleted", "donation", "invented", "strays"],
)
def test_verify_reports_a_journal_that_is_not_the_ledgers(clone: Clone, filled: str, damage: str, said: str) -> None:
    """Entries that were changed, deleted or added by hand are reported."""
    with clone(filled) as url:
        assert differences(url) == []
        rows(url, damage)
        assert said in "\n".join(differences(url))

"""The promise, on a real PostgreSQL: any order, duplicates, batches and interleaving give the model's ledger."""

import asyncio
import random
from collections.abc import Iterator, Sequence
from contextlib import closing

import psycopg2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.ledger.changes import ReceivedEvent
from daemon.ledger.recorder import Recorder
from daemon.ledger.stripe_events import read
from daemon.ledger.verification import verify
from daemon.simulator.scenarios import Scenario, shuffled
from daemon.simulator.sender import encode
from daemon.simulator.stripe_objects import Json
from sql.connection import Row
from sql.database import Database
from sql.snapshot import snapshot
from tests.simulator.oracle import FAMILIES, expected_donations
from tests.simulator.random_payments import RandomScenario, random_scenario
from tests.support.journal_model import BOOKED, booked_rows
from tests.support.ledger import EMPTY_LEDGER
from tests.support.model_ledger import SHOWN, TOTALS, as_row, totals_of

WRITERS = 3
TICKETS = ("story-1", "story-2")
START = 1_760_000_000
RANDOM = st.randoms(use_true_random=False)


class World:
    """A database, and three writers beside each other, each with a connection and a memory of its own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.runner = asyncio.Runner()
        self.databases = [
            Database(url, pool_size=1, statement_timeout_s=10, connect_timeout_s=5, application_name="donationd test")
            for _ in range(WRITERS)
        ]

    def deliver(self, events: Sequence[Json], rng: random.Random) -> None:
        """Records the events in this order, cut into batches that the writers take at the same time."""
        entries = [ReceivedEvent(read(encode(event), livemode=False, hash_key=None)) for event in events]
        batches: list[list[ReceivedEvent]] = []
        while entries:
            size = rng.choice((1, 1, 2, 5, 40))
            batches.append(entries[:size])
            entries = entries[size:]
        self.runner.run(self._record(iter(batches)))

    async def _record(self, batches: Iterator[list[ReceivedEvent]]) -> None:
        async def work(database: Database) -> None:
            recorder = Recorder(database)
            for batch in batches:
                await recorder.record(batch)

        await asyncio.gather(*map(work, self.databases))

    def rows(self, sql: str) -> list[Row]:
        return self.runner.run(self.databases[0].fetch(sql))

    def clear(self) -> None:
        self.runner.run(self.databases[0].fetch(EMPTY_LEDGER))

    def close(self) -> None:
        for database in self.databases:
            self.runner.run(database.close())
        self.runner.close()


@pytest.fixture(scope="module")
def world(postgres: str, migrated: str) -> Iterator[World]:
    with closing(psycopg2.connect(postgres.format(name="postgres"))) as admin:
        admin.autocommit = True
        admin.cursor().execute(f"CREATE DATABASE any_order TEMPLATE {migrated}")
    with closing(World(postgres.format(name="any_order"))) as world:
        yield world


def assert_ledger(world: World, scenarios: Sequence[Scenario]) -> None:
    ends = sorted((end for scenario in scenarios for end in expected_donations(scenario)), key=lambda end: end.donation)
    assert world.rows(SHOWN) == [as_row(end) for end in ends]
    assert world.rows(TOTALS) == totals_of(ends)
    assert world.rows(BOOKED) == booked_rows(scenarios)
    with snapshot(world.url, "donationd test") as moment:
        assert list(verify(moment, lambda _done: None)) == []


def random_scenarios(rng: random.Random, count: int) -> list[RandomScenario]:
    return [random_scenario(rng, TICKETS, key=f"{n}", start=START) for n in range(count)]


@settings(max_examples=40)
@given(rng=RANDOM, count=st.integers(1, 4))
def test_any_order_gives_the_models_ledger(world: World, rng: random.Random, count: int) -> None:
    """Whatever happened at Stripe and however it is reported: the model's donations and totals, to the last field."""
    scenarios = random_scenarios(rng, count)
    world.clear()
    world.deliver(shuffled(scenarios, rng.randint(0, 99), duplicates=0.5), rng)
    assert_ledger(world, scenarios)


def test_a_whole_world_at_once(world: World) -> None:
    """Two hundred payments, by three writers out of order, give the model's ledger; once more changes nothing."""
    rng = random.Random(20)
    scenarios = random_scenarios(rng, 200)
    world.clear()
    for seed in (1, 2):
        world.deliver(shuffled(scenarios, seed, duplicates=0.2), rng)
        assert_ledger(world, scenarios)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: "+".join(sorted(family)))
def test_an_endpoint_may_miss_a_family_of_events(world: World, family: frozenset[str]) -> None:
    """Without one of the families of events that say the same: what can be known is known all the same."""
    rng = random.Random(21)
    scenarios = [rest for scenario in random_scenarios(rng, 80) if (rest := scenario.without(family))]
    assert len(scenarios) > 25
    world.clear()
    world.deliver(shuffled(scenarios, 3), rng)
    assert_ledger(world, scenarios)


def test_a_prefix_never_shows_more_than_there_ever_was(world: World) -> None:
    """While events come in Stripe's order, no amount is shown above the largest that the model ever had."""
    rng = random.Random(22)
    scenarios = random_scenarios(rng, 40)
    most = {donation: most for scenario in scenarios for donation, most in scenario.largest.items()}
    events = sorted((event for scenario in scenarios for event in scenario.events), key=lambda event: event["created"])
    world.clear()
    for begin in range(0, len(events), 8):
        world.deliver(events[begin : begin + 8], rng)
        for id_, _ticket, _currency, _status, amount, refunded, disputed, _created, paid_at, *_rest in world.rows(
            SHOWN
        ):
            if of := most.get(id_):
                assert (amount or 0 if paid_at else 0) <= of.paid
                assert refunded <= of.refunded
                assert disputed <= of.disputed

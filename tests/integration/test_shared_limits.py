"""The limits that hold for all processes and hosts together, by a clock of the test's."""

import asyncio
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.api.checkout_limits import ADDRESS_WINDOW_S, TOTAL_WINDOW_S, CheckoutLimits
from daemon.runtime.http.addresses import RecentAttempts
from daemon.stripe_api.rate_limit import RateLimit
from sql.database import Database
from sql.rate_limit import SharedRateLimit
from tests.support.role_rights import attempting

SHARED_DATABASE = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@dataclass
class Clock:
    seconds: float = 0.0

    def now(self) -> datetime:
        return datetime(2026, 11, 26, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def __call__(self) -> float:
        return self.seconds


def limits_of(database: Database, clock: Clock, *, processes: int = 1) -> CheckoutLimits:
    return CheckoutLimits(
        database, per_address=3, in_total=5, secret="whsec_1", processes=processes, now=clock.now, clock=clock
    )


@pytest.fixture
async def former(database: Database) -> Database:
    """A database that has none of the tables, as that of the previous release."""
    await database.fetch("DROP TABLE checkout_starts, rate_limits")
    return database


MILLISECONDS = st.integers(0, 1_500_000) | st.integers(0, 10_000)
STEPS = st.lists(st.tuples(MILLISECONDS, st.sampled_from(["192.0.2.1", "192.0.2.2", "2001:db8::/64"])), max_size=30)


@SHARED_DATABASE
@given(STEPS)
async def test_two_processes_count_as_one_would(database: Database, steps: list[tuple[int, str]]) -> None:
    """Whenever payments begin, and whichever of two processes is asked: they answer as one process does that counts in
    its memory, so that no hour has more than the limit from one address, and no minute in total."""
    await database.fetch("TRUNCATE checkout_starts")
    clock = Clock()
    both = [limits_of(database, clock) for _ in range(2)]
    by_address, total = RecentAttempts(3, ADDRESS_WINDOW_S, clock), RecentAttempts(5, TOTAL_WINDOW_S, clock)
    for number, (later_ms, address) in enumerate(steps):
        clock.seconds += later_ms / 1000
        expected = max(by_address.wait_s(address), total.wait_s(""))
        if not expected:
            by_address.add(address)
            total.add("")
        wait_s = await both[number % 2].count(address)
        assert wait_s == (pytest.approx(max(1.0, expected), abs=1e-3) if expected else 0.0)


BLOCKED = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


async def test_payments_that_begin_at_the_same_moment_keep_the_limit(database: Database, database_url: str) -> None:
    """One payment was counted; of four that begin together, each of which still sees that one only, two are counted."""
    clock = Clock()
    one, other = (limits_of(database, clock) for _ in range(2))
    assert await one.count("192.0.2.1") == 0.0
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT FROM checkout_starts FOR UPDATE")
        begun = [asyncio.create_task(limits.count("192.0.2.1")) for limits in (one, other, one, other)]
        with attempting(database_url) as watching:
            while True:
                watching.execute(BLOCKED)
                if watching.fetchall() == [(4,)]:
                    break
                await asyncio.sleep(0.01)
        connection.rollback()
        assert sorted(await asyncio.gather(*begun)) == [0.0, 0.0, 1.0, 1.0]


async def test_no_address_is_stored_and_its_number_only_for_an_hour(database: Database) -> None:
    """The row has a number of 20 bits that depends on the key, and is deleted when the limit does not need it."""
    clock = Clock()
    limits = limits_of(database, clock)
    other_key = CheckoutLimits(database, per_address=3, in_total=5, secret="whsec_2")
    assert limits.source("192.0.2.1") != other_key.source("192.0.2.1")
    await limits.count("192.0.2.1")
    stored = await database.fetch("SELECT source FROM checkout_starts ORDER BY source")
    assert stored == [(-1,), (limits.source("192.0.2.1"),)]
    assert 0 <= stored[1][0] < 2**20
    for seconds, rows in ((3599, 2), (3600, 0)):
        clock.seconds = seconds
        with pytest.raises(EndOfTest):
            await limits.forget(end_test)
        assert len(await database.fetch("SELECT source FROM checkout_starts")) == rows


async def test_what_is_deleted_waits_for_no_payment(database: Database, database_url: str) -> None:
    """A payment holds its own row and waits for that of all together: a deletion that holds this one and waits for the
    other would be a deadlock. It leaves the row that is locked, and the next one deletes it.
    """
    clock = Clock()
    limits = limits_of(database, clock)
    await limits.count("192.0.2.1")
    own = {"source": limits.source("192.0.2.1")}
    clock.seconds = 3600
    with attempting(database_url) as payment:
        payment.execute("BEGIN; SELECT FROM checkout_starts WHERE source = %(source)s FOR UPDATE", own)
        with pytest.raises(EndOfTest):
            await limits.forget(end_test)
        assert await database.fetch("SELECT source FROM checkout_starts") == [(own["source"],)]
        payment.execute("ROLLBACK")
    with pytest.raises(EndOfTest):
        await limits.forget(end_test)
    assert await database.fetch("SELECT source FROM checkout_starts") == []


class EndOfTest(Exception):
    pass


async def end_test(_seconds: float) -> None:
    raise EndOfTest


async def test_without_the_table_each_process_has_its_part(former: Database) -> None:
    """Of three payments an hour, one of two processes begins one."""
    clock = Clock()
    limits = limits_of(former, clock, processes=2)
    assert [await limits.count("192.0.2.1") for _ in range(2)] == [0.0, ADDRESS_WINDOW_S]


# --- Calls of Stripe's API


CALLS = st.lists(st.tuples(st.integers(0, 300), st.sampled_from(["call", "call", "call", "pause"])), max_size=30)


@SHARED_DATABASE
@given(CALLS, st.integers(10, 1000))
async def test_calls_of_two_processes_are_reserved_as_those_of_one(
    database: Database, steps: list[tuple[int, str]], within_ms: int
) -> None:
    """The shared bucket decides as the bucket of one process does, pauses included."""
    await database.fetch("TRUNCATE rate_limits")
    clock, model = Clock(), RateLimit(20, 5)
    both = [SharedRateLimit(database, now=clock.now) for _ in range(2)]
    for number, (later_ms, step) in enumerate(steps):
        clock.seconds = round(clock.seconds + later_ms / 1000, 3)
        if step == "pause":
            model.pause(clock.seconds + later_ms / 1000)
            await both[number % 2].pause("stripe", later_ms / 1000)
            continue
        expected = model.reserve(clock.seconds, within_ms / 1000)
        reserved = await both[number % 2].reserve("stripe", within_ms / 1000, rate_per_s=20, burst=5)
        assert reserved is not None
        assert (reserved[0], reserved[2]) == (expected.is_made, expected.is_paused)
        assert reserved[1] == pytest.approx(expected.wait_s, abs=1e-3)


async def test_without_the_table_the_rate_is_not_shared(former: Database) -> None:
    """The process is informed, with the reason, and then uses its own part of the rate."""
    reasons: list[str] = []
    shared = SharedRateLimit(former, reasons.append)
    assert await shared.reserve("stripe", 1.0, rate_per_s=20, burst=5) is None
    await shared.pause("stripe", 1.0)
    assert len(reasons) == 2

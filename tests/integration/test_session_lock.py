"""A lock of one session: at most one process has it, and it never stays with one that is gone."""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from daemon.jobs import runner
from sql import session_lock
from sql.database import Database
from sql.errors import DatabaseUnavailable
from sql.session_lock import SessionLock
from tests.support.process import WAIT_S

MakeLock = Callable[..., SessionLock]
END = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'test lock'"


@pytest.fixture
def make(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeLock]:
    """Makes locks of one name, which a new holder has at once."""
    monkeypatch.setattr(session_lock, "SETTLE_S", 0)
    with ExitStack() as stack:

        def lock(application_name: str = "test lock", **options: object) -> SessionLock:
            made = SessionLock(database_url, "jobs", application_name=application_name, **options)  # type: ignore[arg-type]
            stack.callback(made.close)
            return made

        yield lock


async def until_acquired(lock: SessionLock) -> None:
    async with asyncio.timeout(WAIT_S):
        while not await lock.acquire():  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.02)


async def test_one_process_has_the_lock(make: MakeLock) -> None:
    """Another one gets it when the first gives it up."""
    first, second = make(), make()
    assert await first.acquire()
    assert not await second.acquire()
    first.close()
    await until_acquired(second)


async def test_a_lock_that_is_held_is_not_lost(make: MakeLock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks do not end it."""
    monkeypatch.setattr(session_lock, "CHECK_S", 0.01)
    checks, checked_often = itertools.count(), asyncio.Event()

    def clock() -> float:
        if next(checks) > 10:
            checked_often.set()
        return time.monotonic()

    lock = make(clock=clock)
    assert await lock.acquire()
    lost = asyncio.create_task(lock.wait_lost())
    await checked_often.wait()
    assert not lost.done()
    assert not await make().acquire()
    lost.cancel()


async def test_the_holder_notices_that_its_session_has_ended(
    make: MakeLock, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is reported without a check, and the lock is free for all, also for the one that had it."""
    monkeypatch.setattr(session_lock, "CHECK_S", 10 * WAIT_S)
    lock = make()
    assert await lock.acquire()
    lost = asyncio.create_task(lock.wait_lost())
    await database.fetch(END)
    async with asyncio.timeout(WAIT_S):
        assert await lost == "connection lost"
    lock.close()
    await until_acquired(lock)
    assert not await make().acquire()


async def test_a_holder_that_is_silent_loses_the_lock(make: MakeLock, monkeypatch: pytest.MonkeyPatch) -> None:
    """So it is where its host has vanished, and no connection is closed."""
    monkeypatch.setattr(session_lock, "IDLE_TIMEOUT_S", 3)
    silent, other = make(), make()
    assert await silent.acquire()
    assert not await other.acquire()
    await until_acquired(other)


async def test_a_holder_that_was_suspended_stops_before_it_asks(make: MakeLock) -> None:
    """Its own clock shows that the server may have given the lock to another one."""
    times = iter([0.0, 60.0])  # when it acquires the lock, and when it checks it
    lock = make(clock=lambda: next(times))
    assert await lock.acquire()
    assert await lock.wait_lost() == "it could not be checked in time"
    lock.close()
    await until_acquired(make())


async def test_a_session_that_another_client_uses_is_refused(make: MakeLock, database: Database) -> None:
    """A session takes its own lock twice: the token that is set with the lock shows that it is not the first time."""
    lock = make()
    lock._connection = await lock._connect()
    await lock._connection.run("SELECT set_config('donationd.lock_token', 'of another client', false)", (), None)
    with pytest.raises(DatabaseUnavailable, match="session shared"):
        await lock.acquire()
    assert await make().acquire()


def test_the_times_fit() -> None:
    """A check that takes as long as it may, and the pause before it, end before the server gives the lock up; and from
    then on another process takes over within half a minute.
    """
    assert session_lock.CHECK_S + 2 * session_lock.QUERY_S < session_lock.IDLE_TIMEOUT_S - session_lock.SPARE_S
    assert session_lock.IDLE_TIMEOUT_S + runner.POLL_S + 2 * session_lock.QUERY_S + 1 + session_lock.SETTLE_S < 30

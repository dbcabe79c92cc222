"""The jobs run in passes on one of all hosts: when they are due, each pass recorded, never two at the same time."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import structlog.testing

from daemon.jobs import runner
from daemon.jobs.config import JobsConfig
from daemon.jobs.metrics import JobMetrics
from daemon.jobs.runner import Runner
from daemon.jobs.schedule import MAX_RETRY_S, Job, JobDependencies, ProblemsFound, retry_s
from daemon.jobs.work import open_dependencies
from daemon.stripe_api.client import StripeRejected, StripeUnavailable
from sql import load, session_lock
from sql.database import Database
from sql.errors import DatabaseUnavailable
from sql.session_lock import SessionLock
from tests.support.process import WAIT_S

CANARY = "canary@example.org"
END = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"


@dataclass
class Scripted:
    """A job whose passes end one after the other as `ends` says: with an exception or without; then it waits."""

    ends: list[Exception | None] = field(default_factory=list)
    passes: int = 0
    is_waiting: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, deps: JobDependencies) -> None:
        self.passes += 1
        if self.passes > len(self.ends):
            self.is_waiting.set()
            await asyncio.Event().wait()
        if (error := self.ends[self.passes - 1]) is not None:
            raise error


@dataclass
class Host:
    """A jobs process of one host, within the test's."""

    runner: Runner
    metrics: JobMetrics
    slept: list[float]


@pytest.fixture
async def host(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., Any]]:
    """Makes hosts that run these jobs, and wait for nothing but the database."""
    monkeypatch.setattr(session_lock, "SETTLE_S", 0.1)
    monkeypatch.setattr(runner, "POLL_S", 0.05)
    environ = {"DATABASE_URL": database_url, "STRIPE_API_KEY": "rk_test_canary", "STRIPE_LIVEMODE": "false"}
    config = JobsConfig.from_environ({**environ, "STRIPE_API_BASE": "http://127.0.0.1:1"})
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(min(seconds, 0.05))

    @asynccontextmanager
    async def make(*jobs: Job, name: str = "test lock") -> AsyncIterator[Host]:
        metrics = JobMetrics()
        async with AsyncExitStack() as stack:
            deps = await stack.enter_async_context(open_dependencies(config, metrics))
            lock = SessionLock(database_url, "jobs", application_name=name)
            stack.callback(lock.close)
            made = Runner(jobs, deps, lock, metrics, sleep=sleep, share=lambda: 1.0)
            running = asyncio.create_task(made.run())
            try:
                yield Host(made, metrics, slept)
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

    yield make


async def rows(database: Database) -> dict[str, dict[str, Any]]:
    names = "job", "every_s", "host", "outcome", "detail", "problems", "failures", "started", "ended", "last_success"
    return {row[0]: dict(zip(names, row, strict=True)) for row in await database.fetch(load("list_job_runs"))}


async def waiting(*jobs: Scripted) -> None:
    async with asyncio.timeout(WAIT_S):
        for job in jobs:
            await job.is_waiting.wait()


async def test_each_pass_is_recorded(host: Any, database: Database) -> None:
    """Whether it succeeded, failed, found problems or is running; jobs do not wait for each other."""
    good, bad, busy = Scripted([None]), Scripted([ProblemsFound(["one: do this", "two: do that"])]), Scripted()
    jobs = [Job("good", 86400, good.run), Job("bad", 3600, bad.run), Job("busy", 60, busy.run)]
    async with host(*jobs) as running:
        await waiting(good, bad, busy)
        found = await rows(database)
        assert running.metrics.registry.get_sample_value("jobs_state", {"state": "running"}) == 1
        counted = {"name": "good", "outcome": "succeeded"}
        assert running.metrics.registry.get_sample_value("job_passes_total", counted) == 1
    assert {name: (row["outcome"], row["problems"], row["every_s"]) for name, row in found.items()} == {
        "good": ("running", 0, 86400),  # the second pass, because here no time passes
        "bad": ("running", 2, 3600),
        "busy": ("running", 0, 60),
    }
    assert found["bad"]["detail"] == "one: do this (and 1 more: see jobs.log)"
    assert found["bad"]["last_success"] == pytest.approx(time.time(), abs=10)


FAILURES = [
    StripeUnavailable("timeout"),
    StripeRejected(403, None, None, "req_1"),
    DatabaseUnavailable("timeout"),
    ValueError(CANARY),
    KeyError(CANARY),
]


async def test_a_pass_that_fails_is_tried_again_with_backoff(host: Any, database: Database) -> None:
    """Whatever it failed of; nothing that an unexpected error says is repeated anywhere."""
    job = Scripted([*FAILURES, StripeUnavailable("too many requests", 77.0), ProblemsFound(["one"]), None])
    with structlog.testing.capture_logs() as logged:
        async with host(Job("often", 3600, job.run, recheck_s=900)) as running:
            await waiting(job)
    pauses = [seconds for seconds in running.slept if seconds > 1]
    assert pauses == [5, 10, 20, 40, 80, 77 + 160, 900, 3600]
    reasons = [line["reason"] for line in logged if "failed" in line["event"]]
    assert reasons[0] == "Stripe's API cannot be used: timeout"
    assert "status 403" in reasons[1]
    assert reasons[3].startswith("a fault of this program: ValueError at ")
    assert "test_jobs.py" in reasons[3]
    assert CANARY not in str(logged)
    assert CANARY not in str(await rows(database))


async def test_what_was_done_lately_is_not_done_again_by_the_next_host(host: Any, database: Database) -> None:
    """The next pass comes when it is due; where none has succeeded, it comes at once."""
    daily, broken, removed = Scripted([ProblemsFound(["one"])]), Scripted([StripeUnavailable("x")]), Scripted([None])
    async with host(Job("daily", 86400, daily.run), Job("broken", 9, broken.run), Job("removed", 60, removed.run)):
        await waiting(daily, broken, removed)
    await database.fetch("UPDATE job_runs SET succeeded_at = now() - interval '1 hour' WHERE job = 'daily'")
    again = Scripted([])
    async with host(Job("daily", 86400, daily.run), Job("broken", 9, again.run)) as running:
        await waiting(again)
        assert sorted(await rows(database)) == ["broken", "daily"]
        assert (await rows(database))["daily"]["outcome"] == "interrupted"
        async with asyncio.timeout(WAIT_S):  # for the other job, which does not wait for this one
            while not any(82_000 < seconds <= 82_800 for seconds in running.slept):  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.01)


async def test_progress_is_shown(host: Any, database: Database) -> None:
    """What a pass reports is in its row while it runs."""
    reported = asyncio.Event()

    async def run(deps: JobDependencies) -> None:
        await deps.report("1,200 of 100,000 payments")
        reported.set()
        await asyncio.Event().wait()

    async with host(Job("long", 60, run)), asyncio.timeout(WAIT_S):
        await reported.wait()
        assert (await rows(database))["long"]["detail"] == "1,200 of 100,000 payments"


async def test_no_pass_begins_before_that_of_another_host_has_ended(host: Any, database: Database) -> None:
    """The session of the host that runs the jobs ends, again and again: its passes are stopped before another host's
    begin.
    """
    running: set[str] = set()
    overlaps: list[set[str]] = []
    began = asyncio.Queue[str]()

    def job(name: str) -> Job:
        async def run(_deps: JobDependencies) -> None:
            overlaps.extend([set(running)] if running else [])
            running.add(name)
            began.put_nowait(name)
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                running.discard(name)

        return Job("same", 60, run)

    async with host(job("a"), name="lock a"), host(job("b"), name="lock b"), asyncio.timeout(2 * WAIT_S):
        for _ in range(6):
            await database.fetch(END, [f"lock {await began.get()}"])
    assert overlaps == []


@pytest.mark.parametrize("failures", [1, 2, 5, 1000])
def test_the_pause_after_a_failure_is_bounded(failures: int) -> None:
    """By a quarter of an hour, by the job's own interval, and below by what Stripe wants."""
    daily, often = Job("daily", 86400, Scripted().run), Job("often", 20, Scripted().run)
    assert retry_s(daily, failures, 0.0) == 0
    assert retry_s(daily, failures, 1.0) == min(MAX_RETRY_S, 5 * 2 ** min(failures - 1, 10))
    assert retry_s(often, failures, 1.0) <= 20
    assert retry_s(daily, failures, 0.5, 3600) >= 3600

"""Runs the jobs on one of all hosts: on the one whose process holds the lock.

A process that loses the lock stops its passes before another can begin. What remains is what a pass had already sent:
a statement that the server still executes, or a request to Stripe. So a job may repeat everything that it does: events
and facts are merged, requests have idempotency keys, and rows are unique.
"""

import asyncio
import random
import socket
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import structlog

from daemon.jobs.metrics import JobMetrics
from daemon.jobs.schedule import Job, JobDependencies, ProblemsFound, retry_s
from daemon.runtime.rate_limited_log import OnChangeLog
from daemon.stripe_api.client import StripeRejected, StripeUnavailable
from sql import load
from sql.connection import Params, Row
from sql.errors import DatabaseUnavailable, StatementRejected, remedy
from sql.session_lock import SessionLock

log = structlog.get_logger()

LOCK_NAME = "jobs"
POLL_S = 5.0  # while another process has the lock: so long after its end, at most, this one takes over
MAX_DETAIL_CHARS = 1000


class Outcome(NamedTuple):
    """How a pass ended. `problems` is None if it failed before it could count them."""

    succeeded: bool
    detail: str = ""
    problems: int | None = 0
    retry_after_s: float = 0.0


class Runner:
    """Runs `jobs` whenever this process holds the lock.

    Args:
        clock, sleep, share: the time in seconds, the wait and the random number that the process uses.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        deps: JobDependencies,
        lock: SessionLock,
        metrics: JobMetrics,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        share: Callable[[], float] = random.random,
    ) -> None:
        self._jobs = jobs
        self._deps = deps
        self._lock = lock
        self._metrics = metrics
        self._clock = clock
        self._sleep = sleep
        self._share = share
        self._waiting = OnChangeLog("info", "[Jobs] This host waits: another one runs the jobs")
        self._unrecorded = OnChangeLog("warning", "[Jobs] ❌ A pass cannot be recorded in job_runs")
        self._unavailable = OnChangeLog("warning", "[Jobs] ❌ The lock of the jobs cannot be taken")

    async def run(self) -> None:
        """Take the lock whenever it is free, and run the jobs while it is held. Never returns."""
        suffix = "" if any(job.calls_stripe for job in self._jobs) else "_without_stripe"
        while True:
            self._metrics.show_state(f"waiting{suffix}")
            if await self._acquire():
                self._metrics.show_state(f"running{suffix}")
                log.info("[Jobs] ✅ This host runs the jobs", jobs=", ".join(job.name for job in self._jobs))
                reason = await self._run_while_locked()
                log.warning("[Jobs] ❌ The lock of the jobs is lost: passes that ran were stopped", reason=reason)
            await self._sleep(POLL_S)

    async def _acquire(self) -> bool:
        try:
            acquired = await self._lock.acquire()
        except (DatabaseUnavailable, StatementRejected) as error:
            kind = error.kind if isinstance(error, DatabaseUnavailable) else ""
            self._unavailable.report(str(error), **remedy(kind))
            return False
        self._unavailable.clear()
        if acquired:
            self._waiting.clear()
        else:
            self._waiting.report("held")
        return acquired

    async def _run_while_locked(self) -> str:
        """Run the jobs until the lock is lost, and return why it is."""
        jobs = asyncio.create_task(self._run_jobs())
        lost = asyncio.create_task(self._lock.wait_lost())
        try:
            await asyncio.wait({jobs, lost}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (jobs, lost):
                task.cancel()
            await asyncio.gather(jobs, lost, return_exceptions=True)
            self._lock.close()
        if not jobs.cancelled():
            jobs.result()
        return lost.result()

    async def _run_jobs(self) -> None:
        """Run all jobs beside each other. Never returns."""
        rows = await self._fetch(load("take_over_jobs"), {"jobs": [job.name for job in self._jobs]})
        last: dict[str, tuple[float, int]] = {name: (s_ago, problems) for name, s_ago, problems in rows}
        async with asyncio.TaskGroup() as group:
            for job in self._jobs:
                group.create_task(self._run_job(job, last.get(job.name)))

    async def _run_job(self, job: Job, last: tuple[float, int] | None) -> None:
        """Run one job when it is due. Never returns.

        Args:
            last: how many seconds ago its last pass succeeded, and how many problems it found; None if none has.
        """
        pause_s = 0.0 if last is None else max(0.0, job.pause_s(last[1]) - last[0])
        failures = 0
        while True:
            await self._sleep(pause_s)
            outcome = await self._run_pass(job)
            failures = 0 if outcome.succeeded else failures + 1
            if failures:
                pause_s = retry_s(job, failures, self._share(), outcome.retry_after_s)
            else:
                pause_s = job.pause_s(outcome.problems or 0)

    async def _run_pass(self, job: Job) -> Outcome:
        """Run one pass of a job, and record how it ended."""
        began_s = self._clock()
        outcome = await self._attempt(job)
        name = "succeeded" if outcome.succeeded else "failed"
        _log_pass(job, outcome, self._clock() - began_s)
        self._metrics.pass_ended(job.name, name)
        detail = outcome.detail[:MAX_DETAIL_CHARS]
        given = {"job": job.name, "outcome": name, "detail": detail, "problems": outcome.problems}
        await self._fetch(load("end_job_run"), given)
        return outcome

    async def _attempt(self, job: Job) -> Outcome:
        deps = replace(self._deps, report=partial(self._report, job))
        given = {"job": job.name, "every_s": job.every_s, "host": socket.gethostname()}
        try:
            await self._deps.database.fetch(load("begin_job_run"), given)
            await job.run(deps)
        except ProblemsFound as found:
            log.warning("[Jobs] ⚠️ A pass found problems", job=job.name, problems=str(found))
            return Outcome(True, found.summary(), len(found.problems))
        except StripeUnavailable as error:
            return Outcome(False, str(error), None, error.retry_after_s)
        except (StripeRejected, DatabaseUnavailable, StatementRejected) as error:
            return Outcome(False, str(error), None)
        except Exception as error:  # the other jobs go on
            return Outcome(False, f"a fault of this program: {_where(error)}", None)
        return Outcome(True)

    async def _report(self, job: Job, progress: str) -> None:
        given = {"job": job.name, "detail": progress[:MAX_DETAIL_CHARS]}
        await self._deps.database.fetch(load("report_job_progress"), given)

    async def _fetch(self, sql: str, params: Params) -> list[Row]:
        """Run a statement as soon as the database can; with the database the lock is lost, so this ends."""
        while True:
            try:
                rows = await self._deps.database.fetch(sql, params)
            except (DatabaseUnavailable, StatementRejected) as error:
                self._unrecorded.report(str(error))
                await self._sleep(POLL_S)
            else:
                self._unrecorded.clear()
                return rows


def _log_pass(job: Job, outcome: Outcome, lasted_s: float) -> None:
    values = {"job": job.name, "seconds": round(lasted_s, 1)}
    if not outcome.succeeded:
        log.warning("[Jobs] ❌ A pass failed and will be tried again", reason=outcome.detail, **values)
    else:
        log.debug("[Jobs] A pass succeeded", problems=outcome.problems, **values)


def _where(error: Exception) -> str:
    """The class of an error and the lines that led to it; not its text, which may contain what a donor entered."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} at " + ", ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)

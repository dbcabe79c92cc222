"""The jobs that bring back what the ledger has lost, and report it: each day the events and objects of the last days,
each week all objects (SPEC 12)."""

import time

import structlog

from daemon.jobs.config import JobsConfig
from daemon.jobs.object_comparison import Failure
from daemon.jobs.reconcile import Options, Reconciled, Reports, reconcile
from daemon.jobs.replay import Replayed, ReplayState, replay
from daemon.jobs.runs import RunDependencies, load_state
from daemon.jobs.schedule import Job, JobDependencies, ProblemsFound
from daemon.ledger.comparison import Difference

log = structlog.get_logger()

DAY_S = 86_400
EVENTS_KEPT_S = 30 * DAY_S  # https://docs.stripe.com/api/events/list
# Older objects seldom change: a refund fails within 30 days. A late refund or dispute of an older payment is found by
# its own time, and whatever else changes later is found by the weekly run.
RECENT_S = 40 * DAY_S
EVENTS_KIND = "daily_events"
MAX_PROBLEMS = 1000  # are listed; the metric counts no more


def daily(_config: JobsConfig) -> Job:
    """Each day: the events since the day before, and the objects of the last RECENT_S."""
    return Job("reconcile", DAY_S, _run_daily)


def weekly(_config: JobsConfig) -> Job:
    """Each week: all objects."""
    return Job("reconcile_all", 7 * DAY_S, _run_weekly)


class _Problems(Reports):
    """What a pass reports to an operator."""

    def __init__(self, deps: JobDependencies) -> None:
        self._deps = deps
        self.lines: list[str] = []

    def difference(self, difference: Difference) -> None:
        self._add(difference.text())

    def failure(self, failure: Failure) -> None:
        self._add(f"object {failure.object_id} cannot be compared: {failure.reason}")

    async def progress(self, name: str, found: Reconciled) -> None:
        await self._deps.report(f"{name}: {found.objects} objects read, {found.differences} differences")

    async def replayed(self, replayed: Replayed) -> None:
        """Shows how many events were read."""
        await self._deps.report(f"{replayed.total} events read, {replayed.applied} applied")

    def add_replayed(self, replayed: Replayed) -> None:
        """Reports events that no webhook has recorded."""
        if replayed.applied:
            self._add(f"{replayed.applied} events were not received, and have been applied now")
        if replayed.failed:
            self._add(f"{replayed.failed} events cannot be applied: donationd failed list")

    def _add(self, line: str) -> None:
        if len(self.lines) < MAX_PROBLEMS:
            self.lines.append(line)


async def _run_daily(deps: JobDependencies) -> None:
    """Events first: they have the exact times of what happened."""
    problems, run, now = _Problems(deps), RunDependencies.of(deps), int(time.time())
    last = await load_state(deps.database, EVENTS_KIND, ReplayState)
    since = now - EVENTS_KEPT_S if last is None else max(now - EVENTS_KEPT_S, last.begun_at - DAY_S)
    problems.add_replayed(await replay(run, since, kind=EVENTS_KIND, progress=problems.replayed))
    await _reconcile(run, Options(now - RECENT_S), problems, "daily_objects")


async def _run_weekly(deps: JobDependencies) -> None:
    await _reconcile(RunDependencies.of(deps), Options(), _Problems(deps), "weekly_objects")


async def _reconcile(run: RunDependencies, options: Options, problems: _Problems, kind: str) -> None:
    found = await reconcile(run, options, problems, kind=kind)
    log.info(
        "[Jobs] The ledger was compared with Stripe's objects",
        objects=found.objects,
        differences=found.differences,
        completed=found.completed,
        unknown=found.unknown,
        failed=found.failed,
    )
    if problems.lines:
        raise ProblemsFound(problems.lines)

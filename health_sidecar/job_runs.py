"""The jobs as the sidecar shows them: what this host's jobs process does, and the newest pass of each job.

The passes are read from the database, where the jobs process of whichever host records them: all hosts show the same.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import NamedTuple

import structlog
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sql import load
from sql.connection import Row
from sql.errors import DatabaseUnavailable, StatementRejected

log = structlog.get_logger()

INTERVAL_S = 5.0  # a query of some rows
# A job is late if two of its passes are missing; an hour is for those that come often. The alert JobLate says the same.
LATE_INTERVALS = 2
LATE_S = 3600


class JobRun(NamedTuple):
    """A row of list_job_runs.sql: the newest pass of a job. Times are Unix seconds."""

    job: str
    every_s: int
    host: str
    outcome: str
    detail: str
    problems: int
    failures: int
    started_s: float
    ended_s: float | None
    last_success_s: float

    def is_late(self, now_s: float) -> bool:
        """Whether the job has not succeeded for too long."""
        return now_s - self.last_success_s > LATE_INTERVALS * self.every_s + LATE_S

    def problem(self, now_s: float) -> str | None:
        """What an operator should know of it, as a sentence, or None."""
        if self.is_late(now_s):
            hours = round((now_s - self.last_success_s) / 3600)
            return f"the job {self.job} has not succeeded for {hours} hours: {self.detail or self.outcome}"
        if self.problems:
            return f"the job {self.job} found problems: {self.detail}"
        return None

    def to_json(self) -> dict[str, object]:
        """The job in a reply."""
        return {
            "job": self.job,
            "host": self.host,
            "outcome": self.outcome,
            "detail": self.detail,
            "problems": self.problems,
            "startedAt": self.started_s,
            "lastSuccessAt": self.last_success_s,
        }


class JobRuns(Collector):
    """The newest passes, read regularly.

    Args:
        fetch: runs a statement.
        read_state: the metric `jobs_state` of this host, None while there is no jobs process.
        is_ready: whether the database can be used.
    """

    def __init__(
        self,
        fetch: Callable[[str], Awaitable[list[Row]]],
        read_state: Callable[[], str | None],
        is_ready: Callable[[], bool],
    ) -> None:
        self._fetch = fetch
        self._read_state = read_state
        self._is_ready = is_ready
        self.state: str | None = None
        self.runs: list[JobRun] = []

    async def run(self) -> None:
        """Read them, for ever; while the database is unavailable the last ones remain."""
        while True:
            await self.read()
            await asyncio.sleep(INTERVAL_S if self._is_ready() else 1.0)

    async def read_state(self) -> None:
        """Read now what this host's process does."""
        self.state = await asyncio.to_thread(self._read_state)

    async def read(self) -> None:
        """Read them now. Without STRIPE_API_KEY on this host no job is expected to run."""
        await self.read_state()
        if self.state in {None, "idle"}:
            self.runs = []
        elif self._is_ready():
            try:
                self.runs = [JobRun(*row) for row in await self._fetch(load("list_job_runs"))]
            except (DatabaseUnavailable, StatementRejected) as error:
                log.debug("jobs not read", reason=str(error))

    def problems(self, now_s: float) -> list[str]:
        """One sentence for each problem."""
        return [problem for run in self.runs if (problem := run.problem(now_s))]

    def to_json(self) -> dict[str, object]:
        """The jobs in a reply."""
        return {"state": self.state, "runs": [run.to_json() for run in self.runs]}

    def collect(self) -> Iterator[Metric]:
        """The metrics of each job."""
        succeeded = GaugeMetricFamily(
            "job_last_success_timestamp_seconds",
            "Time at which a pass of the job last succeeded; before the first one, at which the job was first begun",
            labels=["name"],
        )
        interval = GaugeMetricFamily(
            "job_interval_seconds", "Time from a pass that succeeded until the next one", labels=["name"]
        )
        problems = GaugeMetricFamily(
            "job_problems", "What the last pass found that an operator must correct", labels=["name"]
        )
        for run in self.runs:
            succeeded.add_metric([run.job], run.last_success_s)
            interval.add_metric([run.job], run.every_s)
            problems.add_metric([run.job], run.problems)
        yield from (succeeded, interval, problems)


def state_of(collector: Collector) -> str | None:
    """The state whose `jobs_state` is 1; None if there is none."""
    for family in collector.collect():
        if family.name == "jobs_state":
            return next((sample.labels["state"] for sample in family.samples if sample.value == 1), None)
    return None

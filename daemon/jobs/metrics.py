"""The metrics of the jobs process, kept in files as those of an API process; the sidecar serves them."""

import asyncio

from prometheus_client import CollectorRegistry, Counter, Gauge

from daemon.runtime import logging as logs
from daemon.runtime.metrics_files import MetricsFiles
from daemon.stripe_api.metrics import count_calls

SLOT = "jobs"
SAMPLE_INTERVAL_S = 1.0
# idle: no job can run; waiting: another host runs the jobs, or the database cannot be used; running: they run here.
# Without STRIPE_API_KEY only those run that do not call Stripe: a host that has a key may wait for one that has none.
STATES = ("idle", "waiting", "running", "waiting_without_stripe", "running_without_stripe")
OUTCOMES = ("succeeded", "failed")


class JobMetrics:
    """What the jobs process counts, whatever the jobs are.

    Args:
        files: where the values are kept; None: only in memory.

    Attributes:
        call_ended: counts a request to Stripe's API.
    """

    def __init__(self, files: MetricsFiles | None = None) -> None:
        self._keep_files = files.keep if files else lambda: None
        self.registry = CollectorRegistry()
        to = self.registry
        self._state = Gauge(
            "jobs_state",
            "1 for the state of this host's jobs process, else 0",
            ["state"],
            multiprocess_mode="max",
            registry=to,
        )
        self._passes = Counter("job_passes", "Passes of jobs by outcome", ["name", "outcome"], registry=to)
        self.call_ended = count_calls(to)
        # The sidecar and the API processes add their own lines to the same metric.
        self._dropped_lines = Counter("log_lines_dropped", logs.DROPPED_HELP, ["process"], registry=to).labels(SLOT)

    def begin(self, jobs: list[str]) -> None:
        """Show zeros for what has not happened yet, and write the files."""
        for outcome in OUTCOMES:
            for job in jobs:
                self._passes.labels(job, outcome)
        self._keep_files()

    def show_state(self, state: str) -> None:
        """From now on this is the state of the process: one of STATES."""
        for each in STATES:
            self._state.labels(each).set(int(each == state))

    def pass_ended(self, job: str, outcome: str) -> None:
        """Count a pass of a job."""
        self._passes.labels(job, outcome).inc()

    async def keep(self) -> None:
        """Check the files regularly, for ever. Dropped log lines are counted here: any part may write a line."""
        dropped = 0
        while True:
            self._dropped_lines.inc(logs.dropped_lines() - dropped)
            dropped = logs.dropped_lines()
            self._keep_files()
            await asyncio.sleep(SAMPLE_INTERVAL_S)

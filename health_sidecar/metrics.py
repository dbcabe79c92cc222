"""The sidecar's own figures, the API processes' sums and supervisord's processes, for one /metrics page.

The figures are plain numbers read by a collector, so prometheus-client's multiprocess files never hold them, whatever
the environment contains. Counters are kept in a file: they must survive the end of a sidecar whose gate has failed.
"""

import bisect
import importlib.metadata
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from daemon.runtime import files
from daemon.runtime import logging as logs
from daemon.runtime.metrics_format import check_file
from daemon.runtime.rate_limited_log import OnChangeLog
from daemon.runtime.readiness import Readiness
from health_sidecar import process_states

# A ping takes about a millisecond; from 5 s on it is a timeout by default.
PING_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

# Shown once they have been counted: before that a zero would be wrong.
BACKLOG = {
    "donations_unassigned": "Paid donations without a ticket, or with an unknown one",
    "webhook_events_failed_waiting": "Events that could not be applied and wait for a fix",
    "mails_undelivered": "Mails to donors that were not delivered, or were perhaps sent, and wait for a person",
    "schema_migrations_missing": "Migrations of this release that are not applied",
}


MAX_TOTALS_BYTES = 64 * 1024
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]  # exact in a metric


class Totals(msgspec.Struct, kw_only=True):
    """Counts since the file was first written, over all process runs of the sidecar."""

    ping_failures: Count = 0
    reconnects: dict[str, Count] = msgspec.field(default_factory=lambda: {"success": 0, "failure": 0})
    gate_runs: dict[str, Count] = msgspec.field(default_factory=lambda: {"passed": 0, "failed": 0})
    listener_hangs: Count = 0


class Metrics(Collector):
    """What the sidecar measures; `path` None keeps the counters in memory only."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._totals = _load(path) if path else Totals()
        self._state = Readiness(ready=False)
        self._ping_counts = [0] * (len(PING_BUCKETS_S) + 1)
        self._ping_sum_s = 0.0
        self._unsaved = OnChangeLog("warning", "cannot keep the counters")
        self.waiting: dict[str, int] = {}
        self.mail_delay_s: int | None = None
        self.supervisord_reachable: bool | None = None

    def show(self, state: Readiness) -> None:
        """From now on this is the state."""
        self._state = state

    def ping(self, duration_s: float, *, ok: bool) -> None:
        """A ping has ended after this time; `ok` if it was answered."""
        self._ping_counts[bisect.bisect_left(PING_BUCKETS_S, duration_s)] += 1
        self._ping_sum_s += duration_s
        if not ok:
            self._totals.ping_failures += 1
            self._save()

    def reconnect(self, *, ok: bool) -> None:
        """An attempt to reconnect has ended."""
        self._totals.reconnects["success" if ok else "failure"] += 1
        self._save()

    def gate_run(self, outcome: str) -> None:
        """A gate run has ended: "passed" or "failed"."""
        self._totals.gate_runs[outcome] += 1
        self._save()

    def listener_hung(self) -> None:
        """supervisord's listener hung and was killed. The listener itself counts the other processes that hang."""
        self._totals.listener_hangs += 1
        self._save()

    @property
    def listener_hangs(self) -> int:
        """How often the listener hung."""
        return self._totals.listener_hangs

    def backlog(self, *, unassigned: int, failed: int, undelivered: int, mail_delay_s: int) -> None:
        """This many donations, events and mails wait for a person; the oldest mail that is due has waited so long."""
        self.waiting |= {
            "donations_unassigned": unassigned,
            "webhook_events_failed_waiting": failed,
            "mails_undelivered": undelivered,
        }
        self.mail_delay_s = mail_delay_s

    def migrations(self, *, missing: int) -> None:
        """So many migrations of this release are not applied."""
        self.waiting["schema_migrations_missing"] = missing

    def collect(self) -> Iterator[Metric]:
        """All metrics of the sidecar itself."""
        yield GaugeMetricFamily("db_ready", "1 while the database can be used, else 0", value=int(self._state.ready))
        yield CounterMetricFamily("db_ping_failures", "Pings that failed", value=self._totals.ping_failures)
        yield GaugeMetricFamily(
            "db_consecutive_ping_failures",
            "Failed pings since the last one that succeeded",
            value=self._state.failure_count,
        )
        last_error = GaugeMetricFamily(
            "db_last_ping_error",
            "1 for the class of error with which the last ping failed; absent if it succeeded",
            labels=["error"],
        )
        if self._state.last_error is not None:
            last_error.add_metric([self._state.last_error], 1)
        yield last_error
        if (last_ping_at := self._state.last_ping_at) is not None:
            yield GaugeMetricFamily(
                "db_last_ping_timestamp_seconds",
                "Time at which the database last answered",
                value=last_ping_at.timestamp(),
            )
        yield self._durations()
        yield _by_outcome("db_reconnects", "Attempts to reconnect", self._totals.reconnects)
        yield _by_outcome("startup_gate_runs", "Runs of the startup gate", self._totals.gate_runs)
        if self.supervisord_reachable is not None:
            yield GaugeMetricFamily(
                "supervisord_reachable",
                "1 while supervisord answers on its socket, else 0",
                value=int(self.supervisord_reachable),
            )
        for name, count in self.waiting.items():
            yield GaugeMetricFamily(name, BACKLOG[name], value=count)
        if self.mail_delay_s is not None:
            yield GaugeMetricFamily(
                "mail_delay_seconds", "For how long the oldest mail that is due has waited", value=self.mail_delay_s
            )
        dropped = CounterMetricFamily("log_lines_dropped", logs.DROPPED_HELP, labels=["process"])
        dropped.add_metric(["sidecar"], logs.dropped_lines())
        yield dropped

    def _durations(self) -> HistogramMetricFamily:
        bounds = [*map(str, PING_BUCKETS_S), "+Inf"]
        buckets = list(zip(bounds, map(float, itertools.accumulate(self._ping_counts)), strict=True))
        return HistogramMetricFamily(
            "db_ping_duration_seconds", "Duration of pings", buckets=buckets, sum_value=self._ping_sum_s
        )

    def _save(self) -> None:
        if self._path is None:
            return
        try:
            files.write(self._path, msgspec.json.encode(self._totals))
            self._unsaved.clear()
        except OSError as error:
            self._unsaved.report(str(error.strerror), path=str(self._path))


def _by_outcome(name: str, text: str, counts: dict[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=["outcome"])
    for outcome, count in counts.items():
        family.add_metric([outcome], count)
    return family


def _load(path: Path) -> Totals:
    """The counters of earlier process runs; zeros where they cannot be read."""
    totals = Totals()
    found = files.read_json(path, Totals, MAX_TOTALS_BYTES)
    if found is not None:
        totals.ping_failures = found.ping_failures
        for counts, earlier in ((totals.reconnects, found.reconnects), (totals.gate_runs, found.gate_runs)):
            counts.update((outcome, count) for outcome, count in earlier.items() if outcome in counts)
        totals.listener_hangs = found.listener_hangs
    return totals


class ApiSums(Collector):
    """The API processes' metrics, summed over the files they keep in `folder`. A damaged file is left out."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        """Read the files; there are no metrics while there is no folder."""
        try:
            found = {path for path in self._folder.iterdir() if path.suffix == ".db"}
        except FileNotFoundError:
            return
        except OSError as error:
            files.report(self._folder, error.strerror)
            return
        files.report(self._folder, None)
        for path in files.reported(self._folder) - found:
            files.report(path, None)
        sound = [str(path) for path in sorted(found) if _is_sound(path)]
        yield from MultiProcessCollector.merge(sound)  # type: ignore[no-untyped-call]


def _is_sound(path: Path) -> bool:
    reason = check_file(path)
    files.report(path, reason)
    return reason is None


class Joined(Collector):
    """Several collectors as one: a metric that more than one of them has is one metric, with the samples of all."""

    def __init__(self, *collectors: Collector) -> None:
        self._collectors = collectors

    def collect(self) -> Iterator[Metric]:
        """Read each of them."""
        families: dict[str, Metric] = {}
        for family in itertools.chain.from_iterable(collector.collect() for collector in self._collectors):
            if family.name in families:
                families[family.name].samples.extend(family.samples)
            else:
                families[family.name] = family
        yield from families.values()


LISTENER = "listener"  # its name in supervisord.conf


class Supervised(Collector):
    """supervisord's processes, from the file that the listener writes to `path`; its own hangs come from `own`."""

    def __init__(self, path: Path, own: Metrics) -> None:
        self._path = path
        self._own = own

    def collect(self) -> Iterator[Metric]:
        """Read the file; without a listener the metrics have no samples."""
        states = GaugeMetricFamily(
            "supervisord_process_state", "1 for the state the process is in, else 0", labels=["process", "state"]
        )
        restarts = CounterMetricFamily(
            "supervisord_process_restarts", "Starts after the process had ended by itself", labels=["process"]
        )
        hangs = CounterMetricFamily(
            "supervisord_process_hangs",
            "Times the process hung and was killed, to be started again",
            labels=["process"],
        )
        starts = GaugeMetricFamily(
            "supervisord_process_start_time_seconds", "Start time of a process that runs", labels=["process"]
        )
        for name, process in process_states.load(self._path).items():
            for state in process_states.STATES:
                states.add_metric([name, state], int(state == process.state))
            restarts.add_metric([name], process.restarts)
            hangs.add_metric([name], process.hangs + (self._own.listener_hangs if name == LISTENER else 0))
            if process.started_s is not None:
                starts.add_metric([name], process.started_s)
        yield from (states, restarts, hangs, starts)


class Build(Collector):
    """The release that runs."""

    def collect(self) -> Iterator[Metric]:
        """One sample that is always 1."""
        family = GaugeMetricFamily("donationd_build_info", "Always 1, with the release that runs", labels=["version"])
        family.add_metric([importlib.metadata.version("donationd")], 1)
        yield family


def build_registry(own: Metrics, api_folder: Path | None, processes_file: Path | None = None) -> CollectorRegistry:
    """Everything /metrics serves: the sidecar's figures, the API's sums, supervisord's processes, Python's own."""
    registry = CollectorRegistry()
    registry.register(own if api_folder is None else Joined(own, ApiSums(api_folder)))
    registry.register(Build())
    if processes_file is not None:
        registry.register(Supervised(processes_file, own))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry

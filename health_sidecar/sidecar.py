"""The sidecar: the startup gate and the watchdog with what they check and report.

`gate.py` and `watchdog.py` contain the decisions. This module runs their checks against the database, and passes each
result on to the log, the metrics, the API processes and the history.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec
import structlog

from daemon.runtime.rate_limited_log import OnChangeLog
from daemon.runtime.readiness import GATE_FAILED, HEALTHY, UNAVAILABLE, Readiness
from health_sidecar import process_states, report
from health_sidecar.backlog import count_backlog
from health_sidecar.config import Config
from health_sidecar.event_rates import EventRates
from health_sidecar.gate import OUT_OF_SYNC, SCHEMA_REFUSED, Verdict, run_gate
from health_sidecar.history import History, Run
from health_sidecar.job_runs import JobRuns
from health_sidecar.ledger_position import LedgerPosition
from health_sidecar.metrics import Metrics
from health_sidecar.probe import SLOW_KINDS, Probe
from health_sidecar.publisher import ReadinessServer
from health_sidecar.read_replica import ReadReplica
from health_sidecar.supervision import Supervision
from health_sidecar.watchdog import Outcome, Rules, Watch, describe, watch_database
from sql.errors import DatabaseUnavailable, StatementRejected, remedy

log = structlog.get_logger()

GATE_PENDING = Readiness(ready=False, message="The database startup gate has not passed yet")

# The outcomes of the watchdog that change the state, and the name of the new state in the table health_check_runs.
STATE_AFTER = {
    Outcome.LOST: "not ready",
    Outcome.RECONNECTED: "ready",
    Outcome.GAVE_UP: "gave up",
}


@dataclass
class Sidecar:
    """The parts of the sidecar.

    Attributes:
        backlog_probe: separate connections, so that a slow count does not delay a ping.
        query_failed: set when an API process reports a failed query.
        has_open_report: whether an API process has reported a failed query, and no complete check has succeeded since.
    """

    publisher: ReadinessServer
    metrics: Metrics
    history: History
    probe: Probe
    backlog_probe: Probe
    event_rates: EventRates
    jobs: JobRuns
    read_replica: Callable[[], ReadReplica | None]
    position: LedgerPosition
    processes_file: Path
    supervision: Supervision
    query_failed: asyncio.Event
    gate_passed: asyncio.Event = field(default_factory=asyncio.Event)
    has_open_report: bool = False
    schema_problems: OnChangeLog = field(
        default_factory=lambda: OnChangeLog("error", "[DB Watchdog] ❌ Schema out of sync")
    )
    late_migrations: OnChangeLog = field(
        default_factory=lambda: OnChangeLog("warning", "[DB Watchdog] ⚠️ Schema not up to date")
    )
    newer_schema: OnChangeLog = field(
        default_factory=lambda: OnChangeLog("warning", "[DB Watchdog] ⚠️ The database has migrations of a newer version")
    )

    async def run_gate_and_watchdog(self, config: Config) -> None:
        """Run the gate, and after it has passed the watchdog.

        Returns when the process must end: the gate has failed, or the watchdog has given up.
        """
        verdict = await run_gate(
            config.database_url.get_secret_value(),
            self.probe,
            attempts=config.gate_attempts,
            retry_delay_s=config.gate_retry_delay_ms / 1000,
            allow_logged_statements=config.allow_logged_statements,
            operator_log=config.operator_log,
            schema=config.ledger_schema,
            failed_attempt=self.connection_attempt_failed,
            find_loss=self.position.check,
            log=log,
        )
        await self.report_gate(verdict)
        if verdict.passed:
            await self.run_watchdog(watchdog_rules(config))

    def connection_attempt_failed(self, kind: str) -> None:
        """Publish why the gate could not connect; it tries again, and the state is still "not ready"."""
        self.set_state(msgspec.structs.replace(GATE_PENDING, last_error=kind))

    async def report_gate(self, verdict: Verdict) -> None:
        """Report the end of a gate run to the metrics and the history, and publish a state if it has failed."""
        now = datetime.now(UTC)
        self.metrics.gate_run(verdict.outcome)
        self.history.record(verdict.run(now))
        if verdict.passed:
            self.metrics.migrations(missing=verdict.missing_migrations)
            self.history.wake()
            return
        self.set_state(Readiness(ready=False, last_error=verdict.error, message=GATE_FAILED))
        if verdict.reached:
            await self.history.drain()

    async def run_watchdog(self, rules: Rules) -> None:
        """Publish the state "ready", so that the API is started; run the watchdog until it gives up."""
        log.info(f"[DB Watchdog] Starting (interval: {round(rules.interval_s * 1000)}ms)")
        self.gate_passed.set()
        self.set_state(Readiness(ready=True, last_ping_at=datetime.now(UTC), message=HEALTHY))
        log.info("✅ Database watchdog started")
        await watch_database(
            rules,
            ping=self.ping,
            reconnect=self.reconnect,
            wait_report=self.wait_report,
            clock=time.monotonic,
            on_result=partial(self.report_ping, rules),
        )

    def set_state(self, state: Readiness) -> None:
        """Publish a state to the metrics and the API processes."""
        self.metrics.show(state)
        self.publisher.publish(state)

    def report_ping(self, rules: Rules, watch: Watch, outcome: Outcome, error: str | None) -> None:
        """Report the result of a ping or a reconnection to the log, the metrics, the API processes and the history.

        Args:
            watch: the watchdog's state after it.
            error: the class of its error, None if it has succeeded.
        """
        now = datetime.now(UTC)
        details = {"error": error} if error else {}
        if error and outcome is Outcome.LOST:
            details |= remedy(error)
        for level, text in describe(watch, outcome, rules):
            getattr(log, level)(text, **details)
        if outcome in {Outcome.RECONNECTED, Outcome.RECONNECT_FAILED, Outcome.GAVE_UP}:
            self.metrics.reconnect(ok=outcome is Outcome.RECONNECTED)
        self.set_state(
            Readiness(
                ready=watch.ready,
                last_ping_at=self.publisher.state.last_ping_at if error else now,
                last_error=error,
                failure_count=watch.failures,
                message=HEALTHY if watch.ready else UNAVAILABLE,
            )
        )
        if outcome in STATE_AFTER:
            self._record_transition(STATE_AFTER[outcome], ready=watch.ready, detail=error or "", at=now)
        if error is None:
            self.history.wake()

    def record_stop(self) -> None:
        """Record that the sidecar was stopped: otherwise its last state would count until its next start."""
        self._record_transition("stopped", ready=False, detail="", at=datetime.now(UTC))

    def _record_transition(self, state: str, *, ready: bool, detail: str, at: datetime) -> None:
        self.history.record(Run(kind="transition", ok=ready, state=state, detail=detail, at=at))

    async def ping(self) -> None:
        """Ping the database, measure how long it takes, and check the database. Raises DatabaseUnavailable."""
        began_s = time.monotonic()
        ok = False
        try:
            await self.probe.ping()
            ok = True
        finally:
            self.metrics.ping(time.monotonic() - began_s, ok=ok)
        await self.check_database()

    async def reconnect(self) -> None:
        """Ping the database over new connections, and check it. Raises DatabaseUnavailable."""
        await self.probe.reconnect()
        await self.check_database()

    async def check_database(self) -> None:
        """Raises DatabaseUnavailable if the database accepts no new connection, or its schema cannot serve requests."""
        if self.has_open_report:
            await self.probe.ping_new_connection()
        try:
            schema = await self.probe.schema()
        except DatabaseUnavailable as error:
            if error.kind not in SLOW_KINDS:
                raise
            return  # the ping was answered: only this query is slow, perhaps because it waits for a lock
        except StatementRejected as rejection:
            self.schema_problems.report(str(rejection))
            raise DatabaseUnavailable(SCHEMA_REFUSED) from None
        self.metrics.migrations(missing=len(schema.drift.missing))
        self.late_migrations.set(schema.drift.warning())
        self.newer_schema.set(", ".join(schema.drift.unknown))
        self.schema_problems.set("; ".join(schema.problems()))
        if not schema.serves:
            raise DatabaseUnavailable(OUT_OF_SYNC)
        self.has_open_report = False

    async def wait_report(self, timeout_s: float) -> bool:
        """Wait until an API process reports a failed query, at most for `timeout_s`. Returns whether one did."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.query_failed.wait()
        except TimeoutError:
            return False
        self.query_failed.clear()
        self.has_open_report = True
        return True

    async def count_backlog(self) -> None:
        """Count the backlog regularly for the metrics. Never returns."""
        await count_backlog(self.backlog_probe.fetch, self.metrics, lambda: self.publisher.state.ready)

    def report_history(self, since: datetime, now: datetime) -> dict[str, object]:
        """The reply of GET /health/history."""
        return report.history(list(self.history.recent), since, now)

    async def report_status(self) -> dict[str, object]:
        """The reply of GET /health/status."""
        await self.jobs.read_state()
        return report.status(
            self.publisher.state,
            process_states.load(self.processes_file),
            await self.event_rates.recent(),
            self.metrics.waiting,
            list(self.history.recent),
            jobs=self.jobs.to_json(),
            replica=await asyncio.to_thread(self.read_replica),
            further_problems=self.jobs.problems(time.time())
            + list(filter(None, [self.supervision.problem, self.position.problem])),
        )


def watchdog_rules(config: Config) -> Rules:
    """The watchdog's part of the configuration."""
    return Rules(
        interval_s=config.watchdog_interval_ms / 1000,
        retry_s=config.watchdog_retry_ms / 1000,
        max_failures=config.watchdog_max_failures,
        reconnect_attempts=config.reconnect_attempts,
        reconnect_delay_s=config.reconnect_delay_ms / 1000,
    )

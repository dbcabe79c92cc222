"""The sidecar's life: configuration, HTTP and readiness socket, gate, API processes, watchdog.

Exit status 0 after SIGTERM, 1 when the gate failed, the watchdog gave up or anything broke.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import structlog
from aiohttp import web
from aiohttp.log import server_logger

from daemon.runtime import lifecycle
from daemon.runtime import logging as logs
from daemon.runtime.config import ConfigError
from daemon.runtime.heartbeat import Heartbeat
from daemon.runtime.http.limits import Limits, reserve_descriptors
from daemon.runtime.http.server import HttpServer, opened
from daemon.runtime.rate_limited_log import OnChangeLog
from daemon.runtime.readiness import GATE_FAILED, HEALTHY, UNAVAILABLE, Readiness
from health_sidecar import process_states, report
from health_sidecar.backlog import count_backlog
from health_sidecar.config import Config
from health_sidecar.endpoints import build_app, report_routes
from health_sidecar.event_rates import Tally, by_outcome
from health_sidecar.gate import OUT_OF_SYNC, SCHEMA_REFUSED, Verdict, open_probe, report_config, run_gate
from health_sidecar.history import History, Run
from health_sidecar.metrics import ApiSums, Metrics, build_registry
from health_sidecar.probe import SLOW_KINDS, Probe
from health_sidecar.publisher import ReadinessServer
from health_sidecar.supervision import Supervision
from health_sidecar.watchdog import Outcome, Rules, Watch, describe, watch_database
from sql.errors import DatabaseUnavailable, StatementRejected, remedy

log = structlog.get_logger()

# A few monitors and scrapers, whose requests have no body. They may be far away, and /metrics has some 100 kB.
LIMITS = Limits(connections=200, memory_bytes=4 * 1024 * 1024, head_s=10.0, body_s=2.0, reply_s=30.0, idle_s=75.0)
SHUTDOWN_S = 2.0  # health checks are answered at once; nobody needs longer

GATE_PENDING = Readiness(ready=False, message="The database startup gate has not passed yet")

# Which of the watchdog's outcomes change the state, and what the new one is called in health_check_runs.
STATE_AFTER = {
    Outcome.LOST: "not ready",
    Outcome.RECONNECTED: "ready",
    Outcome.GAVE_UP: "gave up",
}


@dataclass
class Sidecar:
    """The parts that hear of everything that happens to the database."""

    publisher: ReadinessServer
    metrics: Metrics
    history: History
    probe: Probe
    tally: Tally
    processes_file: Path
    counter: Probe  # of the backlog; apart, so that a slow count can't make a ping late
    supervision: Supervision
    reported: asyncio.Event = field(default_factory=asyncio.Event)
    gate_passed: asyncio.Event = field(default_factory=asyncio.Event)
    # An API process said that a query failed, and no check of everything has passed since.
    is_doubted: bool = False
    schema_problems: OnChangeLog = field(
        default_factory=lambda: OnChangeLog("error", "[DB Watchdog] ❌ Schema out of sync")
    )
    newer_schema: OnChangeLog = field(
        default_factory=lambda: OnChangeLog("warning", "[DB Watchdog] ⚠️ The database has migrations of a newer version")
    )

    def attempt_failed(self, kind: str) -> None:
        """The gate could not connect, and goes on trying: not ready as before, with the reason."""
        self.tell(msgspec.structs.replace(GATE_PENDING, last_error=kind))

    def gate_ended(self, verdict: Verdict) -> None:
        """Count and record a gate run; a failed one becomes the state."""
        now = datetime.now(UTC)
        self.metrics.gate_run(verdict.outcome)
        self.history.record(verdict.run(now))
        if verdict.passed:
            self.history.wake()
        else:
            self.tell(Readiness(ready=False, last_error=verdict.error, message=GATE_FAILED))

    def opened(self) -> None:
        """The gate has passed: ready, and the API may be started."""
        self.gate_passed.set()
        self.tell(Readiness(ready=True, last_ping_at=datetime.now(UTC), message=HEALTHY))

    def tell(self, state: Readiness) -> None:
        """From now on this is the state, for metrics and followers."""
        self.metrics.show(state)
        self.publisher.publish(state)

    def pinged(self, rules: Rules, watch: Watch, outcome: Outcome, error: str | None) -> None:
        """Tell log, metrics, followers and history what a ping meant."""
        now = datetime.now(UTC)
        known = {"error": error} if error else {}
        if error and outcome is Outcome.LOST:
            known |= remedy(error)
        for level, text in describe(watch, outcome, rules):
            getattr(log, level)(text, **known)
        if outcome in {Outcome.RECONNECTED, Outcome.RECONNECT_FAILED, Outcome.GAVE_UP}:
            self.metrics.reconnect(ok=outcome is Outcome.RECONNECTED)
        self.tell(
            Readiness(
                ready=watch.ready,
                last_ping_at=self.publisher.state.last_ping_at if error else now,
                last_error=error,
                failure_count=watch.failures,
                message=HEALTHY if watch.ready else UNAVAILABLE,
            )
        )
        if outcome in STATE_AFTER:
            state = STATE_AFTER[outcome]
            self.history.record(Run(kind="transition", ok=watch.ready, state=state, detail=error or "", at=now))
        if error is None:
            self.history.wake()

    async def ping(self) -> None:
        """A measured ping, and whether what answers is of use. Raises DatabaseUnavailable."""
        began_s = time.monotonic()
        ok = False
        try:
            await self.probe.ping()
            ok = True
        finally:
            self.metrics.ping(time.monotonic() - began_s, ok=ok)
        await self.check()

    async def reconnect(self) -> None:
        """A ping over new connections, and whether what answers is of use. Raises DatabaseUnavailable."""
        await self.probe.reconnect()
        await self.check()

    async def check(self) -> None:
        """Raises DatabaseUnavailable if the database accepts no new connection, or its schema cannot serve requests."""
        if self.is_doubted:
            await self.probe.ping_new_connection()
        try:
            schema = await self.probe.schema()
        except DatabaseUnavailable as down:
            if down.kind not in SLOW_KINDS:
                raise
            return  # a lock is in its way, perhaps; the ping was answered
        except StatementRejected as refusal:
            self.schema_problems.report(str(refusal))
            raise DatabaseUnavailable(SCHEMA_REFUSED) from None
        tell(self.newer_schema, ", ".join(schema.drift.unknown))
        tell(self.schema_problems, "; ".join(schema.problems()))
        if not schema.serves:
            raise DatabaseUnavailable(OUT_OF_SYNC)
        self.is_doubted = False

    async def count(self) -> None:
        """Keep the backlog's figures fresh, for ever."""
        await count_backlog(self.counter.fetch, self.metrics, lambda: self.publisher.state.ready)

    def report_history(self, since: datetime, now: datetime) -> dict[str, object]:
        """GET /health/history."""
        return report.history(list(self.history.recent), since, now)

    async def report_status(self) -> dict[str, object]:
        """GET /health/status."""
        events = await self.tally.lately()
        known = process_states.load(self.processes_file)
        return report.status(
            self.publisher.state,
            known,
            events,
            self.metrics.waiting,
            list(self.history.recent),
            supervisord=self.supervision.problem,
        )

    async def wait_report(self, timeout_s: float) -> bool:
        """Whether an API process reported a failed query before `timeout_s` had passed."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.reported.wait()
        except TimeoutError:
            return False
        self.reported.clear()
        self.is_doubted = True
        return True


def tell(what: OnChangeLog, reason: str) -> None:
    """It lasts as long as there is a reason."""
    if reason:
        what.report(reason)
    else:
        what.clear()


def watchdog_rules(config: Config) -> Rules:
    """The watchdog's part of the configuration."""
    return Rules(
        interval_s=config.watchdog_interval_ms / 1000,
        retry_s=config.watchdog_retry_ms / 1000,
        max_failures=config.watchdog_max_failures,
        reconnect_attempts=config.reconnect_attempts,
        reconnect_delay_s=config.reconnect_delay_ms / 1000,
    )


@asynccontextmanager
async def open_sidecar(config: Config, environ: Mapping[str, str]) -> AsyncIterator[tuple[Sidecar, HttpServer]]:
    """HTTP and the readiness socket up, not ready yet; all of it gone again at the end."""
    beside = config.readiness_socket
    probe = open_probe(config, "donationd sidecar")
    counter = open_probe(config, "donationd backlog")
    metrics = Metrics(beside.with_name("sidecar-totals.json"))
    history = History(beside.with_name("health-check-runs.jsonl"), probe.fetch)
    reported = asyncio.Event()
    tally = Tally(lambda: by_outcome(ApiSums(config.metrics_dir)) if config.metrics_dir else {})
    async with ReadinessServer(beside, GATE_PENDING, reported.set) as publisher:
        processes_file = beside.with_name(process_states.FILE)
        supervision = Supervision(environ.get("SUPERVISOR_SERVER_URL", ""), metrics)
        sidecar = Sidecar(publisher, metrics, history, probe, tally, processes_file, counter, supervision, reported)
        registry = build_registry(metrics, config.metrics_dir, processes_file)
        app = build_app(lambda: publisher.state, registry, report_routes(sidecar.report_history, sidecar.report_status))
        try:
            async with opened(web.AppRunner(app, shutdown_timeout=SHUTDOWN_S), LIMITS) as server:
                await server.listen(host=config.metrics_host, port=config.metrics_port)
                log.info("Sidecar listening on http://{}:{}".format(*server.addresses[0][:2]))
                yield sidecar, server
        finally:
            await probe.close()
            await counter.close()


async def guard(sidecar: Sidecar, config: Config) -> int:
    """Gate, then watchdog. Returns the exit status when there is no more use in going on."""
    verdict = await run_gate(
        config.database_url.get_secret_value(),
        sidecar.probe,
        attempts=config.gate_attempts,
        retry_delay_s=config.gate_retry_delay_ms / 1000,
        allow_logged_statements=config.allow_logged_statements,
        failed_attempt=sidecar.attempt_failed,
        log=log,
    )
    sidecar.gate_ended(verdict)
    if not verdict.passed:
        if verdict.reached:
            await sidecar.history.drain()
        return 1
    rules = watchdog_rules(config)
    log.info(f"[DB Watchdog] Starting (interval: {config.watchdog_interval_ms}ms)")
    sidecar.opened()
    log.info("✅ Database watchdog started")
    await watch_database(
        rules,
        ping=sidecar.ping,
        reconnect=sidecar.reconnect,
        wait_report=sidecar.wait_report,
        clock=time.monotonic,
        on_result=partial(sidecar.pinged, rules),
    )
    return 1


async def serve(config: Config, environ: Mapping[str, str], started_s: float, heartbeat: Heartbeat) -> int:
    """The whole life after the configuration. Returns the exit status.

    A life that failed goes on answering health checks until it may end (see life.MIN_UPTIME_S).
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sig in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sig, stop.set)
    async with open_sidecar(config, environ) as (sidecar, server):
        work = [
            heartbeat.run(),
            guard(sidecar, config),
            sidecar.publisher.run(),
            sidecar.history.run(),
            sidecar.count(),
            sidecar.tally.run(),
            server.watch(),
        ]
        if lifecycle.supervised(environ):
            work += [sidecar.supervision.run(sidecar.gate_passed), sidecar.supervision.watch()]
        status = await first_to_end(stop, work)
        if status == 0:
            # Else the time until the next start would count as the state before.
            sidecar.history.record(Run(kind="transition", ok=False, state="stopped", detail="", at=datetime.now(UTC)))
        else:
            await wait_at_most(stop, lifecycle.remaining_s(started_s, environ))
    log.info("Sidecar stopped", status=status)
    return status


async def first_to_end(stop: asyncio.Event, work: list[Coroutine[Any, Any, int | None]]) -> int:
    """Run `work` until `stop` (0) or until a part of it ends (its status) or dies (1, with its trace in the log).

    The parts are meant to run for ever: none may die unseen while the others go on.
    """
    tasks = [asyncio.create_task(part) for part in work]
    stopping = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in (stopping, *tasks):
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    if stopping in done:
        return 0
    for task, result in zip(tasks, results, strict=True):
        if task in done and isinstance(result, BaseException):
            log.critical("🚨 A part of the sidecar died", exc_info=result)
    return 1


async def wait_at_most(stop: asyncio.Event, timeout_s: float) -> None:
    """Wait for `stop`, but not longer than `timeout_s`."""
    try:
        async with asyncio.timeout(timeout_s):
            await stop.wait()
    except TimeoutError:
        return


def main(environ: Mapping[str, str]) -> int:
    """Read the configuration, live, and return the exit status."""
    started_s = time.monotonic()
    lifecycle.forbid_core_dumps()
    if lifecycle.supervised(environ):
        lifecycle.die_with_parent()
    try:
        config = Config.from_environ(environ)
        reserve_descriptors(LIMITS.connections)
        heartbeat = Heartbeat()
    except ConfigError as error:
        logs.configure("text", "INFO")
        report_config(error)
        lifecycle.wait_min_uptime(started_s)
        return 1
    logs.configure_serving(config.log_format, config.log_level)
    server_logger.addFilter(logs.NoBadRequests())
    try:
        return asyncio.run(serve(config, environ, started_s, heartbeat))
    except OSError as error:
        log.critical(f"🚨 The sidecar cannot start: {error.strerror or error}", file=error.filename)
        lifecycle.wait_min_uptime(started_s)
        return 1


if __name__ == "__main__":
    sys.exit(main(os.environ))

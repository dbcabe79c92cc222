"""The sidecar's process: HTTP and the readiness socket at once, then the gate, the API processes and the watchdog.

Exit status 0 after SIGTERM, 1 when the gate failed, the watchdog gave up or anything broke.
"""

from daemon.runtime.loading import begin_loading

if __name__ == "__main__":
    begin_loading()

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import structlog
from aiohttp import web

from daemon.runtime.http.limits import Limits, reserve_descriptors
from daemon.runtime.http.server import HttpServer
from daemon.runtime.lifecycle import ProcessRun, Program, run_process, serving
from health_sidecar import process_states
from health_sidecar.config import Config
from health_sidecar.endpoints import build_app, report_routes
from health_sidecar.event_rates import EventRates, by_outcome
from health_sidecar.gate import GATE_FAILED_LINE, open_probe
from health_sidecar.history import History
from health_sidecar.job_runs import JobRuns, state_of
from health_sidecar.ledger_position import FILE, LedgerPosition
from health_sidecar.metrics import ApiSums, Metrics, build_registry
from health_sidecar.publisher import ReadinessServer
from health_sidecar.read_replica import replica_of
from health_sidecar.sidecar import GATE_PENDING, Sidecar
from health_sidecar.supervision import Supervision

log = structlog.get_logger()

# For a few monitors and scrapers, whose requests have no body. They may be far away, and /metrics has some 100 kB.
LIMITS = Limits(connections=200, memory_bytes=4 * 1024 * 1024, head_s=10.0, body_s=2.0, reply_s=30.0, idle_s=75.0)
SHUTDOWN_S = 2.0  # health checks are answered at once; no other request needs longer


@asynccontextmanager
async def open_sidecar(config: Config, environ: Mapping[str, str]) -> AsyncIterator[tuple[Sidecar, HttpServer]]:
    """HTTP and the readiness socket are open, not ready yet; at the end all of it is closed."""
    beside = config.readiness_socket
    probe = open_probe(config, "donationd sidecar")
    backlog_probe = open_probe(config, "donationd backlog")
    metrics = Metrics(beside.with_name("sidecar-totals.json"))
    processes_file = beside.with_name(process_states.FILE)
    sums = ApiSums(config.metrics_dir) if config.metrics_dir else None
    query_failed = asyncio.Event()
    async with ReadinessServer(beside, GATE_PENDING, query_failed.set) as publisher:
        sidecar = Sidecar(
            publisher=publisher,
            metrics=metrics,
            history=History(beside.with_name("health-check-runs.jsonl"), probe.fetch),
            probe=probe,
            backlog_probe=backlog_probe,
            event_rates=EventRates(lambda: by_outcome(sums) if sums else {}),
            jobs=JobRuns(backlog_probe.fetch, lambda: state_of(sums) if sums else None, lambda: publisher.state.ready),
            read_replica=lambda: replica_of(sums) if sums else None,
            position=LedgerPosition(beside.with_name(FILE), backlog_probe.fetch),
            processes_file=processes_file,
            supervision=Supervision(environ.get("SUPERVISOR_SERVER_URL", ""), metrics),
            query_failed=query_failed,
        )
        registry = build_registry(metrics, config.metrics_dir, processes_file)
        registry.register(sidecar.jobs)
        registry.register(sidecar.position)
        app = build_app(lambda: publisher.state, registry, report_routes(sidecar.report_history, sidecar.report_status))
        try:
            async with HttpServer(web.AppRunner(app, shutdown_timeout=SHUTDOWN_S), LIMITS) as server:
                await server.listen(host=config.metrics_host, port=config.metrics_port)
                log.info("Sidecar listening on http://{}:{}".format(*server.addresses[0][:2]))
                yield sidecar, server
        finally:
            await probe.close()
            await backlog_probe.close()


async def serve(config: Config, process: ProcessRun) -> int:
    """Everything after the configuration. Returns the exit status.

    A process run that failed still answers health checks until it may end.
    """
    async with open_sidecar(config, process.environ) as (sidecar, server):
        parts = [
            sidecar.run_gate_and_watchdog(config),
            sidecar.publisher.run(),
            sidecar.history.run(),
            sidecar.count_backlog(),
            sidecar.event_rates.run(),
            sidecar.jobs.run(),
            sidecar.position.run(lambda: sidecar.publisher.state.ready),
            server.sweep(),
        ]
        if process.is_supervised:
            parts += [sidecar.supervision.run(sidecar.gate_passed), sidecar.supervision.watch()]
        async with process.running(*parts):
            await process.stop.wait()
        if process.failed:
            await process.wait_min_uptime()
        else:
            sidecar.record_stop()
    status = int(process.failed)
    log.info("Sidecar stopped", status=status)
    return status


SIDECAR = Program(
    name="The sidecar",
    config=Config,
    run=serving(serve),
    reserve=lambda _config: reserve_descriptors(LIMITS.connections),
    rejected=GATE_FAILED_LINE,
)


def main(environ: Mapping[str, str]) -> int:
    """Run the sidecar. Returns the exit status."""
    return run_process(SIDECAR, environ)


if __name__ == "__main__":
    sys.exit(main(os.environ))

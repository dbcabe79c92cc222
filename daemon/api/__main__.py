"""The API process: serves until SIGTERM.

Below supervisord the listening socket is file descriptor 0. Started by hand, the process waits for the gate on the
readiness socket and then opens the port itself.
"""

import asyncio
import gc
import math
import os
import signal
import sys
from collections.abc import Mapping

import structlog
from aiohttp import web
from pydantic import SecretStr

from daemon.api.app import WorkLimits, build
from daemon.api.config import Config
from daemon.api.metrics import ApiMetrics, open_metrics
from daemon.api.refusals import Refusals
from daemon.api.tickets import Donations
from daemon.api.webhook import Webhook
from daemon.ledger.batcher import Batcher
from daemon.ledger.reader import Ledger
from daemon.ledger.recorder import Outcome, ReceivedEvent, Recorder
from daemon.runtime.http.auth import OperatorAuthentication
from daemon.runtime.http.limits import Limits, Places, reserve_descriptors
from daemon.runtime.http.server import HttpServer, inherited_socket
from daemon.runtime.lifecycle import ProcessRun, Program, run_process, serving
from daemon.runtime.readiness import ReadinessClient
from sql.database import Database

log = structlog.get_logger()

STOP_SPARE_S = 5  # beyond SHUTDOWN_GRACE_MS, as `up` has supervisord wait
# Before the first request is accepted the sidecar may send the state, so that the first requests need not be rejected.
FIRST_STATE_S = 1.0
# What a request and a batch create is freed with them, by reference counts. Searching it for cycles after every 700
# objects, as Python does, was a tenth of an event's time.
GC_THRESHOLD = 10_000
CONNECT_TIMEOUT_S = 3.0  # for a connection to PostgreSQL; a server that needs longer counts as down


async def serve(config: Config, process: ProcessRun) -> int:
    """Everything between the configuration and the exit status."""
    metrics = open_metrics(config.prometheus_multiproc_dir, str(config.api_slot))
    refusals = Refusals(metrics)
    readiness = ReadinessClient(config.readiness_socket)
    # Writes go out one batch at a time; reads have connections of their own, and never wait behind them.
    writer = _database(config, config.database_url, pool_size=1)
    reader = _database(config, config.read_database_url or config.database_url, pool_size=config.db_pool_size)
    batcher = Batcher(Recorder(writer), config.webhook_queue_limit, metrics.batch_written)
    metrics.begin()
    draining = asyncio.Event()
    runner = _runner(config, batcher, Ledger(reader), readiness, metrics=metrics, draining=draining)
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    sampling = metrics.sample(lambda: batcher.waiting, (writer.stats, reader.stats))
    try:
        async with (
            process.running(readiness.run(), sampling),
            HttpServer(
                runner, _limits(config), on_closed=refusals.connection_closed, on_bad_request=refusals.bad_request
            ) as server,
            process.running(server.sweep()),
        ):
            await _serve_until_stopped(config, process, server, readiness, draining)
    finally:
        await writer.close()
        await reader.close()
    log.info("API stopped", pid=os.getpid())
    return int(process.failed)


def _database(config: Config, url: SecretStr, *, pool_size: int) -> Database:
    return Database(
        url.get_secret_value(),
        pool_size=pool_size,
        statement_timeout_s=config.db_statement_timeout_ms / 1000,
        connect_timeout_s=CONNECT_TIMEOUT_S,
        application_name="donationd api",
    )


def _runner(
    config: Config,
    batcher: Batcher,
    ledger: Ledger,
    readiness: ReadinessClient,
    *,
    metrics: ApiMetrics,
    draining: asyncio.Event,
) -> web.AppRunner:
    places = Places("deliveries", config.webhook_places)

    async def record(received: ReceivedEvent, size: int) -> Outcome:
        async with places:
            return await batcher.record(received, size)

    webhook = Webhook(
        record,
        metrics,
        secrets=config.signing_secrets,
        livemode=config.stripe_livemode,
        hash_key=config.hash_key,
    )
    app = build(
        webhook,
        Donations(ledger, config.default_currency),
        readiness,
        metrics,
        deadline_s=config.request_deadline_ms / 1000,
        draining=draining,
        work=WorkLimits(pages=config.page_places, reads=config.read_places),
        ledger_access=None if config.public_ledger else OperatorAuthentication(config.operator_tokens),
    )
    return web.AppRunner(app, shutdown_timeout=config.shutdown_grace_ms / 1000)


def _limits(config: Config) -> Limits:
    return Limits(
        connections=config.max_connections,
        memory_bytes=config.body_memory_limit,
        head_s=config.header_timeout_ms / 1000,
        body_s=config.body_timeout_ms / 1000,
        reply_s=config.write_timeout_ms / 1000,
        idle_s=config.idle_timeout_ms / 1000,
    )


async def _serve_until_stopped(
    config: Config, process: ProcessRun, server: HttpServer, readiness: ReadinessClient, draining: asyncio.Event
) -> None:
    """Listen at once on an inherited socket, else when a gate has passed; then serve until the process is to stop."""
    inherited = inherited_socket()
    if inherited:
        await readiness.wait_first_state(FIRST_STATE_S)
        await server.listen(sock=inherited)
        log.info("🚀 HTTP Server accepting connections", socket="inherited", pid=os.getpid())
    else:
        log.info("Waiting for the startup gate", socket=str(config.readiness_socket))
        if not await process.wait(readiness.wait_gate()):
            return
        await server.listen(host=config.host, port=config.port)
        log.info(f"🚀 HTTP Server successfully bound and listening on http://{config.host}:{config.port}")
    await process.stop.wait()
    # From now on SIGALRM ends the process after a bounded time, whatever hangs in it. supervisord does the same where
    # it stops the process itself, but not where `donationd reload` has sent the SIGTERM.
    signal.alarm(math.ceil(config.shutdown_grace_ms / 1000) + STOP_SPARE_S)
    draining.set()  # each reply says `Connection: close`, so that no client gets a reset
    await server.drain(keep_accepting=inherited is None)


API = Program(
    name="The API",
    config=Config,
    run=serving(serve),
    reserve=lambda config: reserve_descriptors(config.max_connections),
    rejected="🚨 The API cannot run with this configuration",
)


def main(environ: Mapping[str, str]) -> int:
    """Run an API process. Returns the exit status: 0 after SIGTERM, 1 if it failed."""
    return run_process(API, environ)


if __name__ == "__main__":
    sys.exit(main(os.environ))

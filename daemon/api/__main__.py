"""An API process: configuration, then serve until SIGTERM.

Below supervisord the listening socket is file descriptor 0. Started by hand, it waits for the gate on the readiness
socket and then opens the port itself.
"""

import asyncio
import contextlib
import gc
import math
import os
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable, Mapping

import structlog
from aiohttp import web
from aiohttp.log import server_logger
from pydantic import SecretStr

from daemon.api.app import WorkLimits, build
from daemon.api.config import Config
from daemon.api.metrics import ApiMetrics, open_metrics
from daemon.api.tickets import Donations
from daemon.api.webhook import Webhook
from daemon.ledger.batcher import Batcher
from daemon.ledger.reader import Ledger
from daemon.ledger.recorder import Outcome, ReceivedEvent, Recorder
from daemon.runtime import logging as logs
from daemon.runtime.config import ConfigError
from daemon.runtime.heartbeat import Heartbeat
from daemon.runtime.http.auth import OperatorAuthentication
from daemon.runtime.http.limits import Limits, Places, reserve_descriptors
from daemon.runtime.http.server import HttpServer, opened
from daemon.runtime.lifecycle import die_with_parent, forbid_core_dumps, supervised, wait_min_uptime
from daemon.runtime.rate_limited_log import CountingLog
from daemon.runtime.readiness import ReadinessClient
from sql.database import Database

log = structlog.get_logger()

# While we stop each reply says `Connection: close`, so that no client meets a reset. A connection still open after this
# time has no request to send.
DRAIN_S = 1.0
DRAIN_POLL_S = 0.02
STOP_SPARE_S = 5  # beyond SHUTDOWN_GRACE_MS, as `up` has supervisord wait
# Before we accept anything the sidecar may say how things are: the first requests need not be refused.
FIRST_WORD_S = 1.0
# What a request and a batch make dies with them, by its reference counts. Looking for cycles among it after every 700
# objects, as Python does, was a tenth of an event's time.
GC_THRESHOLD = 10_000
CONNECT_TIMEOUT_S = 3.0  # for a connection to PostgreSQL; a server that needs longer counts as down
STDIN = 0


def main(environ: Mapping[str, str]) -> int:
    """Runs an API process. Returns the exit status: 0 after SIGTERM, 1 when it can't run."""
    started_s = time.monotonic()
    forbid_core_dumps()
    if supervised(environ):
        die_with_parent()
    status = _run(environ)
    if status:
        wait_min_uptime(started_s)
    return status


def _run(environ: Mapping[str, str]) -> int:
    try:
        config = Config.from_environ(environ)
        reserve_descriptors(config.max_connections)
        heartbeat = Heartbeat()
    except ConfigError as error:
        print("\n".join(f"donationd: {problem}" for problem in error.problems), file=sys.stderr)
        return 1
    logs.configure_serving(config.log_format, config.log_level)
    metrics = open_metrics(config.prometheus_multiproc_dir, str(config.api_slot))
    server_logger.addFilter(logs.NoBadRequests(_bad_request_counter(metrics)))
    try:
        return asyncio.run(_serve(config, heartbeat, metrics))
    except OSError as error:
        log.critical("🚨 The API can't listen", host=config.host, port=config.port, error=error.strerror)
        return 1


def _bad_request_counter(metrics: ApiMetrics) -> Callable[[], None]:
    tally = CountingLog("[API] ❌ Refused what is no HTTP request")

    def count() -> None:
        metrics.request_answered("none", "other", 400, 0.0)  # nobody knows its route, method or duration
        tally.count("bad request")

    return count


async def _serve(config: Config, heartbeat: Heartbeat, metrics: ApiMetrics) -> int:
    """Everything between the configuration and the exit status."""
    beating = asyncio.create_task(heartbeat.run())
    stop, draining = asyncio.Event(), asyncio.Event()
    for sig in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sig, stop.set)
    readiness = ReadinessClient(config.readiness_socket)
    following = asyncio.create_task(readiness.run())
    following.add_done_callback(lambda _task: stop.set())
    # Writes go out one batch at a time; reads have connections of their own, and never wait behind them.
    writer = _database(config, config.database_url, pool_size=1)
    reader = _database(config, config.read_database_url or config.database_url, pool_size=config.db_pool_size)
    batcher = Batcher(Recorder(writer), config.webhook_queue_limit, metrics.batch_written)
    metrics.begin()
    sampling = asyncio.create_task(metrics.sample(lambda: batcher.waiting, (writer.stats, reader.stats)))
    runner = _runner(config, batcher, Ledger(reader), readiness, metrics=metrics, draining=draining)
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    try:
        async with opened(
            runner, _limits(config), CountingLog("[API] Connections were ended because a limit was reached").count
        ) as server:
            watching = asyncio.create_task(server.watch())
            watching.add_done_callback(lambda _task: stop.set())
            inherited = _inherited_socket()
            if await _open_port(config, server, readiness, stop, inherited):
                await stop.wait()
                _end_at_the_latest(config)
                draining.set()
                await _drain(server, inherited)
            died = following.done() or watching.done()
            watching.cancel()
    finally:
        await writer.close()
        await reader.close()
        following.cancel()
        sampling.cancel()
        beating.cancel()
    log.info("API stopped", pid=os.getpid())
    return 1 if died else 0


def _end_at_the_latest(config: Config) -> None:
    """From now on this process ends in bounded time, whatever hangs in it: SIGALRM ends it. supervisord sees to that
    where it stops the process itself, but not where `donationd reload` has sent the SIGTERM.
    """
    signal.alarm(math.ceil(config.shutdown_grace_ms / 1000) + STOP_SPARE_S)


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


async def _open_port(
    config: Config, server: HttpServer, readiness: ReadinessClient, stop: asyncio.Event, inherited: socket.socket | None
) -> bool:
    """Starts to serve: at once on an inherited socket, else when a gate has passed. False if told to stop before."""
    if inherited:
        await readiness.wait_first_state(FIRST_WORD_S)
        await server.listen(sock=inherited)
        log.info("🚀 HTTP Server accepting connections", socket="inherited", pid=os.getpid())
        return True
    log.info("Waiting for the startup gate", socket=str(config.readiness_socket))
    waits = [asyncio.create_task(readiness.wait_gate()), asyncio.create_task(stop.wait())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    if stop.is_set():
        return False
    await server.listen(host=config.host, port=config.port)
    log.info(f"🚀 HTTP Server successfully bound and listening on http://{config.host}:{config.port}")
    return True


async def _drain(server: HttpServer, inherited: socket.socket | None) -> None:
    """Returns once every connection has been answered and closed, or DRAIN_S has passed.

    Who connects meanwhile waits for another process of the inherited socket.
    """
    if inherited:
        server.stop_accepting()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            while server.open:  # noqa: ASYNC110 - aiohttp has no event for it
                await asyncio.sleep(DRAIN_POLL_S)


def _inherited_socket() -> socket.socket | None:
    """supervisord's listening socket (`[fcgi-program:api]`), or None when there is none."""
    if not stat.S_ISSOCK(os.fstat(STDIN).st_mode):
        return None
    inherited = socket.socket(fileno=os.dup(STDIN))
    if not inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        inherited.close()
        return None
    return inherited


if __name__ == "__main__":
    sys.exit(main(os.environ))

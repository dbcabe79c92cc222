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
from collections import Counter
from collections.abc import Callable, Mapping

import structlog
from aiohttp import web
from aiohttp.log import server_logger
from pydantic import SecretStr

from daemon import metrics
from daemon.app import build
from daemon.batcher import Batcher
from daemon.config import Config
from daemon.donations import Donations
from daemon.ledger import Ledger
from daemon.limited_log import CountedLog
from daemon.operator_tokens import OperatorAuthentication
from daemon.recorder import Recorder
from daemon.webhook import Webhook
from health_sidecar import logs
from health_sidecar.config import ConfigError
from health_sidecar.connections import Door, Head, Limits, Notify, bind, opened, reserve_descriptors
from health_sidecar.heartbeat import Heartbeat
from health_sidecar.life import die_with_parent, forbid_core_dumps, linger, supervised
from health_sidecar.readiness import Follower
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
DELIVERY = b"POST /webhooks/stripe "  # how the head of a webhook begins


def main(environ: Mapping[str, str]) -> int:
    """Runs an API process. Returns the exit status: 0 after SIGTERM, 1 when it can't run."""
    started_s = time.monotonic()
    forbid_core_dumps()
    if supervised(environ):
        die_with_parent()
    status = _run(environ)
    if status:
        linger(started_s)
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
    server_logger.addFilter(logs.NoBadRequests(_bad_request_counter()))
    try:
        return asyncio.run(_serve(config, heartbeat))
    except OSError as error:
        log.critical("🚨 The API can't listen", host=config.host, port=config.port, error=error.strerror)
        return 1


def _bad_request_counter() -> Callable[[], None]:
    tally = CountedLog("[API] ❌ Refused what is no HTTP request")

    def count() -> None:
        metrics.request("none", "other", 400, 0.0)  # nobody knows its route, method or duration
        tally.count("bad request")

    return count


def _refused_counter() -> Notify:
    """What counts the requests that found no room: by the second, because a refusal is to cost next to nothing."""
    tally = CountedLog("[API] More requests at once than MAX_CONNECTIONS; refused")
    counts = Counter[bool]()

    def count(head: Head) -> None:
        if not counts:
            asyncio.get_running_loop().call_later(metrics.SAMPLE_INTERVAL_S, note)
        counts[head.startswith(DELIVERY)] += 1

    def note() -> None:
        metrics.refused_at_the_door(deliveries=counts[True], others=counts[False])
        tally.count("requests", counts.total())
        counts.clear()

    return count


async def _serve(config: Config, heartbeat: Heartbeat) -> int:
    """Everything between the configuration and the exit status."""
    beating = asyncio.create_task(heartbeat.run())
    stop, draining = asyncio.Event(), asyncio.Event()
    for sig in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sig, stop.set)
    follower = Follower(config.readiness_socket)
    following = asyncio.create_task(follower.run())
    following.add_done_callback(lambda _task: stop.set())
    # Writes go out one batch at a time; reads have connections of their own, and never wait behind them.
    writer = _database(config, config.database_url, pool_size=1)
    reader = _database(config, config.read_database_url or config.database_url, pool_size=config.db_pool_size)
    batcher = Batcher(Recorder(writer), config.webhook_queue_limit)
    metrics.begin()
    sampling = asyncio.create_task(metrics.sample(lambda: batcher.waiting, (writer.stats, reader.stats)))
    runner = _runner(config, batcher, Ledger(reader), follower, draining)
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    try:
        async with opened(runner, _limits(config), _refused_counter()) as door:
            watching = asyncio.create_task(door.watch())
            watching.add_done_callback(lambda _task: stop.set())
            inherited = _inherited_socket()
            if await _open_port(config, door, follower, stop, inherited):
                await stop.wait()
                _end_at_the_latest(config)
                draining.set()
                await _drain(door, inherited)
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
    config: Config, batcher: Batcher, ledger: Ledger, follower: Follower, draining: asyncio.Event
) -> web.AppRunner:
    webhook = Webhook(
        batcher.record, secrets=config.signing_secrets, livemode=config.stripe_livemode, hash_key=config.hash_key
    )
    app = build(
        webhook,
        Donations(ledger, config.default_currency),
        follower,
        deadline_s=config.request_deadline_ms / 1000,
        draining=draining,
        ledger_access=None if config.public_ledger else OperatorAuthentication(config.operator_tokens),
    )
    return web.AppRunner(app, shutdown_timeout=config.shutdown_grace_ms / 1000)


def _limits(config: Config) -> Limits:
    return Limits(
        connections=config.max_connections,
        head_s=config.header_timeout_ms / 1000,
        body_s=config.body_timeout_ms / 1000,
        reply_s=config.write_timeout_ms / 1000,
        idle_s=config.idle_timeout_ms / 1000,
    )


async def _open_port(
    config: Config, door: Door, follower: Follower, stop: asyncio.Event, inherited: socket.socket | None
) -> bool:
    """Starts to serve: at once on an inherited socket, else when a gate has passed. False if told to stop before."""
    if inherited:
        await follower.wait_word(FIRST_WORD_S)
        door.listen(inherited)
        log.info("🚀 HTTP Server accepting connections", socket="inherited", pid=os.getpid())
        return True
    log.info("Waiting for the startup gate", socket=str(config.readiness_socket))
    waits = [asyncio.create_task(follower.wait_gate()), asyncio.create_task(stop.wait())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    if stop.is_set():
        return False
    for listener in await bind(config.host, config.port):
        door.listen(listener)
    log.info(f"🚀 HTTP Server successfully bound and listening on http://{config.host}:{config.port}")
    return True


async def _drain(door: Door, inherited: socket.socket | None) -> None:
    """Returns once every connection has been answered and closed, or DRAIN_S has passed.

    Who connects meanwhile waits for another process of the inherited socket.
    """
    if inherited:
        door.stop_listening()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            while door.open:  # noqa: ASYNC110 - aiohttp has no event for it
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

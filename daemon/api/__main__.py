"""The API process: serves until SIGTERM.

Under supervisord the listening socket is file descriptor 0. A process that is started without supervisord waits until
the sidecar reports that the startup gate has passed, and then listens on the configured port itself.
"""

from daemon.runtime.loading import begin_loading

if __name__ == "__main__":
    begin_loading()

import asyncio
import gc
import math
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import structlog
from aiohttp import web
from pydantic import SecretStr

from daemon.api.app import ReadPlaces, build
from daemon.api.checkout import STRIPE_DEADLINE_S, Checkout, CheckoutSettings
from daemon.api.checkout_limits import CheckoutLimits
from daemon.api.config import Config
from daemon.api.console import console_routes
from daemon.api.daily_sums import keep_daily_sums
from daemon.api.endpoints import Dependencies
from daemon.api.error_replies import ErrorReplies
from daemon.api.event_replay import EventReplay
from daemon.api.fraud import FraudWatch
from daemon.api.metrics import ApiMetrics
from daemon.api.operator import OperatorLimits, operator_api, routes
from daemon.api.public_pages import CONSENT_PLACES, public_routes
from daemon.api.read_pools import ReadPools
from daemon.api.refusals import Refusals
from daemon.api.reply_queue import ReplyParts, ReplyQueue
from daemon.api.short_path import ShortPath
from daemon.api.short_reads import ShortReads
from daemon.api.tickets import Donations
from daemon.api.webhook import Webhook
from daemon.ledger.batcher import BATCHES, Batcher
from daemon.ledger.changes import Outcome, ReceivedEvent
from daemon.ledger.operators import Operators
from daemon.ledger.reader import Ledger
from daemon.ledger.recorder import Recorder
from daemon.runtime.config import STOP_SPARE_S
from daemon.runtime.http.auth import OperatorAuthentication
from daemon.runtime.http.health_routes import HealthChecks
from daemon.runtime.http.limits import ACCEPTS_ALONE, ACCEPTS_SHARED, Limits, Places, reserve_descriptors
from daemon.runtime.http.server import HttpServer, inherited_socket
from daemon.runtime.http.short_path import FindHandler
from daemon.runtime.lifecycle import ProcessRun, Program, run_process, serving
from daemon.runtime.metrics_files import open_files
from daemon.runtime.rate_limited_log import IncidentLog
from daemon.runtime.readiness import ReadinessClient
from daemon.stripe_api.client import StripeApi
from daemon.stripe_api.metrics import count_calls
from sql.database import Database, Queryable
from sql.rate_limit import SharedRateLimit

log = structlog.get_logger()

# The longest wait for the sidecar's first state before requests are accepted: without a state they would be rejected.
FIRST_STATE_S = 1.0
# Everything that a request creates is freed by reference counts when it ends. Python's default, a search for reference
# cycles after every 700 new objects, took a tenth of an event's time. A thousand connections have 70,000 objects: if
# they are opened at the same time, none of them should wait for a search.
GC_THRESHOLD = 100_000
CONNECT_TIMEOUT_S = 3.0  # for a connection to PostgreSQL; a server that needs longer counts as down


async def serve(config: Config, process: ProcessRun) -> int:
    """Create the parts of the process, serve until it is to stop, and return the exit status."""
    metrics = ApiMetrics(open_files(config.prometheus_multiproc_dir, str(config.api_slot)))
    readiness = ReadinessClient(config.readiness_socket)
    draining = asyncio.Event()
    parts = ReplyParts(readiness, metrics, ErrorReplies(readiness), draining, config.request_deadline_ms / 1000)
    replies = ReplyQueue(parts)
    async with _connections(config, metrics) as connected:
        fraud = FraudWatch(connected.operators, metrics, config.fraud_thresholds, config.shown_dispute_fee)
        recorder = Recorder(connected.writer, queues_mail=config.sends_mail)
        batcher = Batcher(recorder, config.webhook_queue_limit, metrics.batch_written, fraud.count)
        limits = _checkout_limits(config, connected.operators)
        find_handler, runner = _paths(config, batcher, replies, connected=connected, recorder=recorder, limits=limits)
        metrics.begin()
        gc.freeze()  # what exists now is never freed, so no search needs to look at it
        gc.set_threshold(GC_THRESHOLD)
        async with (
            process.running(
                readiness.run(),
                metrics.sample(lambda: batcher.waiting, [pool.stats for pool in connected.pools]),
                fraud.run(),
                replies.watch_deadline(),
                keep_daily_sums(connected.operators, config.report_time_zone),
                limits.forget(),
                *connected.reads.tasks(metrics.registry),
            ),
            _server(config, runner, find_handler, Refusals(metrics)) as server,
            process.running(server.sweep()),
        ):
            await _serve_until_stopped(config, process, server, readiness, draining)
    log.info("API stopped", pid=os.getpid())
    return int(process.failed)


@dataclass(frozen=True)
class _Connections:
    """What the process is connected to.

    Attributes:
        writer: each batch in flight has a connection.
        reads: other connections, so that no read waits for a batch.
        operators: each call of operators, the signals of fraud, the daily sums and the limits have one of their own.
        stripe: None without STRIPE_API_KEY.
    """

    writer: Database
    reads: ReadPools
    operators: Database
    stripe: StripeApi | None

    @property
    def pools(self) -> list[Database]:
        return [self.writer, self.operators, *self.reads.pools]


@asynccontextmanager
async def _connections(config: Config, metrics: ApiMetrics) -> AsyncIterator[_Connections]:
    operators = _database(
        config, config.database_url, config.operator_places + config.export_places + CONSENT_PLACES + 3
    )
    connected = _Connections(
        writer=_database(config, config.database_url, BATCHES),
        reads=ReadPools(config, partial(_database, config)),
        operators=operators,
        stripe=_stripe(config, operators, metrics) if config.stripe_api_key else None,
    )
    try:
        yield connected
    finally:
        for pool in connected.pools:
            await pool.close()
        if connected.stripe:
            await connected.stripe.close()


def _database(config: Config, url: SecretStr, pool_size: int, statement_timeout_ms: int | None = None) -> Database:
    return Database(
        url.get_secret_value(),
        pool_size=pool_size,
        statement_timeout_s=(statement_timeout_ms or config.db_statement_timeout_ms) / 1000,
        connect_timeout_s=CONNECT_TIMEOUT_S,
        application_name="donationd api",
        schema=config.ledger_schema,
    )


def _paths(
    config: Config,
    batcher: Batcher,
    replies: ReplyQueue,
    *,
    connected: _Connections,
    recorder: Recorder,
    limits: CheckoutLimits,
) -> tuple[FindHandler, web.AppRunner]:
    """The short path, and what answers every request that does not take it."""
    tokens = OperatorAuthentication(config.operator_tokens)
    reads = connected.reads
    donations = Donations(Ledger(reads.ledger), config.default_currency, tokens, reads.primary)
    places = Places("deliveries", config.webhook_places)
    read_places = ReadPlaces(
        Places("ledger pages", config.page_places),
        Places("large ledger pages", config.large_page_places),
        Places("reads", config.read_places),
    )
    webhook = _webhook(config, batcher, places, replies.parts.metrics)
    health = HealthChecks(lambda: replies.parts.readiness.state)
    handlers = ShortPath(webhook, batcher, places, health, replies).handlers()
    short_reads = ShortReads(donations, read_places, replies, has_public_pages=config.public_ledger)
    app = build(
        webhook,
        donations,
        replies.parts,
        health=health,
        read_places=read_places,
        ledger_access=None if config.public_ledger else tokens,
        feature_routes=_feature_routes(config, connected, recorder, limits, tokens),
        trusted_proxies=config.trusted_proxies,
    )
    runner = web.AppRunner(app, shutdown_timeout=config.shutdown_grace_ms / 1000)
    return lambda line: handlers.get(line) or short_reads.handler(line), runner


def _webhook(config: Config, batcher: Batcher, places: Places, metrics: ApiMetrics) -> Webhook:
    async def record(received: ReceivedEvent, size: int) -> Outcome:
        async with places:
            return await batcher.record(received, size)

    return Webhook(
        record,
        metrics,
        secrets=config.signing_secrets,
        livemode=config.stripe_livemode,
        hash_key=config.hash_key,
    )


def _feature_routes(
    config: Config,
    connected: _Connections,
    recorder: Recorder,
    limits: CheckoutLimits,
    tokens: OperatorAuthentication,
) -> list[web.RouteDef]:
    """The endpoints and pages of operators, of donors and of a payment's begin."""
    database, stripe = connected.operators, connected.stripe
    deps = Dependencies(
        database,
        Operators(database, recorder),
        config.default_currency,
        config.report_time_zone,
        config.fraud_thresholds,
        config.shown_dispute_fee,
        EventReplay(stripe, database, recorder, config.stripe_livemode, config.hash_key) if stripe else None,
    )
    checkout = _checkout(config, connected.reads.ledger, stripe, limits)
    public = public_routes(config, checkout, readers=connected.reads.pages, writers=database, operators=deps.operators)
    return [*_operator_routes(config, deps, tokens), *checkout.routes(), *public]


def _operator_routes(config: Config, deps: Dependencies, tokens: OperatorAuthentication) -> list[web.RouteDef]:
    limits = OperatorLimits(config.operator_places, config.export_places, config.write_timeout_ms / 1000)
    api = operator_api(deps, limits)
    console = console_routes(api, tokens, config.operator_tokens, config.signing_secrets, deps.database)
    return [*routes(api, tokens), *console]


def _stripe(config: Config, database: Database, metrics: ApiMetrics) -> StripeApi:
    alone = IncidentLog("warning", "[API] The rate of calls to Stripe is this process's own part of it")
    shared = SharedRateLimit(database, alone.report)
    return StripeApi(config, shared=shared, deadline_s=STRIPE_DEADLINE_S, count=count_calls(metrics.registry))


def _checkout_limits(config: Config, database: Database) -> CheckoutLimits:
    return CheckoutLimits(
        database,
        per_address=config.checkouts_per_address,
        in_total=config.checkouts_in_total,
        secret=config.signing_secrets[0],
        processes=config.api_processes,
    )


def _checkout(config: Config, database: Queryable, stripe: StripeApi | None, limits: CheckoutLimits) -> Checkout:
    settings = CheckoutSettings(config.default_currency, config.public_url, config.checkout_fees)
    return Checkout(database, stripe, settings, limits, Places("checkouts", config.checkout_places))


def _server(config: Config, runner: web.AppRunner, short_path: FindHandler, refusals: Refusals) -> HttpServer:
    limits = Limits(
        connections=config.max_connections,
        memory_bytes=config.body_memory_limit,
        head_s=config.header_timeout_ms / 1000,
        body_s=config.body_timeout_ms / 1000,
        reply_s=config.write_timeout_ms / 1000,
        idle_s=config.idle_timeout_ms / 1000,
        accepts=ACCEPTS_ALONE if config.api_processes == 1 else ACCEPTS_SHARED,
    )
    return HttpServer(
        runner,
        limits,
        on_closed=refusals.connection_closed,
        on_bad_request=refusals.bad_request,
        short_path=short_path,
    )


async def _serve_until_stopped(
    config: Config, process: ProcessRun, server: HttpServer, readiness: ReadinessClient, draining: asyncio.Event
) -> None:
    """Listen, at once on an inherited socket, otherwise after the gate has passed, and serve until `process.stop`."""
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
    # SIGALRM kills the process if it has not ended by then. supervisord does the same when it stops the process itself,
    # but not when `donationd reload` has sent the SIGTERM. The first process of a container ignores SIGALRM; there the
    # engine that has sent the SIGTERM kills it.
    signal.alarm(math.ceil(config.shutdown_grace_ms / 1000) + STOP_SPARE_S)
    draining.set()  # each reply has `Connection: close`, so that no client sends a request on a connection that ends
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

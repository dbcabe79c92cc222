"""The API's aiohttp application on a test's database, without a process of its own."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from aiohttp import web
from aiohttp.test_utils import TestClient

from daemon.api.app import build
from daemon.api.console import console_routes
from daemon.api.endpoints import Dependencies
from daemon.api.error_replies import ErrorReplies
from daemon.api.event_replay import EventReplay
from daemon.api.metrics import ApiMetrics
from daemon.api.operator import OperatorLimits, operator_api, routes
from daemon.api.reply_queue import ReplyParts
from daemon.api.tickets import Donations
from daemon.api.webhook import Webhook
from daemon.ledger.batcher import Batcher
from daemon.ledger.operators import Operators
from daemon.ledger.reader import Ledger
from daemon.ledger.recorder import Recorder
from daemon.runtime.http.addresses import TrustedProxies
from daemon.runtime.http.auth import OperatorAuthentication, OperatorToken
from daemon.runtime.readiness import Readiness, ReadinessClient
from sql.database import Database

NOW = 1_760_000_000
OLD_SECRET, SECRET = "whsec_old", "whsec_new"
Client = TestClient[web.Request, web.Application]
MakeClient = Callable[[web.Application], Awaitable[Client]]


def follower(ready: bool = True) -> ReadinessClient:
    follows = ReadinessClient(Path("nowhere.sock"), clock=lambda: 0.0)
    follows._keep(Readiness(ready=ready))
    return follows


def reply_parts(metrics: ApiMetrics, readiness: ReadinessClient | None = None, *, deadline_s: float = 10) -> ReplyParts:
    readiness = readiness or follower()
    return ReplyParts(readiness, metrics, ErrorReplies(readiness), asyncio.Event(), deadline_s)


def application(
    database: Database,
    readiness: ReadinessClient,
    metrics: ApiMetrics | None = None,
    *,
    tokens: tuple[OperatorToken, ...] = (),
    signing_secrets: tuple[str, ...] = (OLD_SECRET, SECRET),
    limits: OperatorLimits = OperatorLimits(),  # noqa: B008 - it cannot be changed
    report_time_zone: str = "UTC",
    feature_routes: Iterable[web.RouteDef] = (),
    trusted_proxies: TrustedProxies | None = None,
    event_replay: EventReplay | None = None,
) -> web.Application:
    metrics = metrics or ApiMetrics()
    ledger = Ledger(database)
    recorder = Recorder(database)
    batcher = Batcher(recorder, limit=100)
    webhook = Webhook(
        batcher.record, metrics, secrets=signing_secrets, livemode=False, hash_key=None, clock=lambda: float(NOW)
    )
    return build(
        webhook,
        Donations(ledger, "USD"),
        reply_parts(metrics, readiness),
        feature_routes=[
            *_operator_routes(
                Dependencies(
                    database, Operators(database, recorder), "USD", report_time_zone, event_replay=event_replay
                ),
                tokens,
                signing_secrets,
                limits,
            ),
            *feature_routes,
        ],
        trusted_proxies=trusted_proxies,
    )


def _operator_routes(
    deps: Dependencies, tokens: tuple[OperatorToken, ...], signing_secrets: tuple[str, ...], limits: OperatorLimits
) -> list[web.RouteDef]:
    api, operators = operator_api(deps, limits), OperatorAuthentication(tokens)
    console = console_routes(api, operators, tokens, signing_secrets, deps.database)
    return [*routes(api, operators), *console]

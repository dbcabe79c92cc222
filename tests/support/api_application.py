"""The API's aiohttp application on a test's database, without a process of its own."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web
from aiohttp.test_utils import TestClient

from daemon.api.app import build
from daemon.api.tickets import Donations
from daemon.api.webhook import Webhook
from daemon.ledger.batcher import Batcher
from daemon.ledger.reader import Ledger
from daemon.ledger.recorder import Recorder
from daemon.runtime.readiness import Follower, Readiness
from sql.database import Database

NOW = 1_760_000_000
OLD_SECRET, SECRET = "whsec_old", "whsec_new"
Client = TestClient[web.Request, web.Application]
MakeClient = Callable[[web.Application], Awaitable[Client]]


def follower(ready: bool = True) -> Follower:
    follows = Follower(Path("nowhere.sock"), clock=lambda: 0.0)
    follows._take(Readiness(ready=ready))
    return follows


def application(database: Database, follows: Follower) -> web.Application:
    ledger = Ledger(database)
    batcher = Batcher(Recorder(database), limit=100)
    webhook = Webhook(
        batcher.record, secrets=(OLD_SECRET, SECRET), livemode=False, hash_key=None, clock=lambda: float(NOW)
    )
    return build(webhook, Donations(ledger, "USD"), follows, deadline_s=10, draining=asyncio.Event())

"""An API process that writes one statement per event through the pool: what batching is measured against."""

import asyncio
import os
import signal
import socket

from aiohttp import web

from daemon.api.__main__ import CONNECT_TIMEOUT_S
from daemon.api.app import build
from daemon.api.config import Config
from daemon.api.error_replies import ErrorReplies
from daemon.api.metrics import ApiMetrics
from daemon.api.reply_queue import ReplyParts
from daemon.api.tickets import Donations
from daemon.api.webhook import Webhook
from daemon.ledger.changes import Outcome, ReceivedEvent
from daemon.ledger.reader import Ledger
from daemon.ledger.recorder import Recorder
from daemon.runtime import logging as logs
from daemon.runtime.metrics_files import open_files
from daemon.runtime.readiness import ReadinessClient
from sql.database import Database


def application(config: Config, database: Database, follower: ReadinessClient) -> web.Application:
    """The API, with the ledger itself behind the webhook and nothing that gathers events."""
    recorder = Recorder(database)

    async def record(received: ReceivedEvent, _size: int) -> Outcome:
        [outcome] = await recorder.record([received])
        return outcome

    metrics = ApiMetrics(open_files(config.prometheus_multiproc_dir, str(config.api_slot)))
    webhook = Webhook(
        record,
        metrics,
        secrets=config.signing_secrets,
        livemode=config.stripe_livemode,
        hash_key=config.hash_key,
    )
    return build(
        webhook,
        Donations(Ledger(database), config.default_currency),
        ReplyParts(follower, metrics, ErrorReplies(follower), asyncio.Event(), config.request_deadline_ms / 1000),
    )


async def serve(config: Config) -> None:
    """Serves on the inherited socket until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    database = Database(
        config.database_url.get_secret_value(),
        pool_size=config.db_pool_size,
        statement_timeout_s=config.db_statement_timeout_ms / 1000,
        connect_timeout_s=CONNECT_TIMEOUT_S,
        application_name="donationd one by one",
    )
    follower = ReadinessClient(config.readiness_socket)
    following = asyncio.create_task(follower.run())
    runner = web.AppRunner(application(config, database, follower), access_log=None)
    await runner.setup()
    await web.SockSite(runner, socket.socket(fileno=0)).start()
    await stop.wait()
    await runner.cleanup()
    await database.close()
    following.cancel()


if __name__ == "__main__":
    settings = Config.from_environ(os.environ)
    logs.configure(settings.log_format, settings.log_level)
    asyncio.run(serve(settings))

"""Every job, and what they work with. It is imported only where a job can run: an idle process stays small.

The jobs have connections of their own. They wait for nothing that the API processes wait for, and delay nothing there,
except that a statement that writes to the ledger takes the ledger's lock for its milliseconds.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

from daemon.jobs import balance, check_account, operator_log, recovery, thanks
from daemon.jobs.config import JobsConfig
from daemon.jobs.metrics import JobMetrics
from daemon.jobs.runner import LOCK_NAME, Runner
from daemon.jobs.schedule import Job, JobDependencies
from daemon.ledger.recorder import Recorder
from daemon.runtime.lifecycle import ProcessRun
from daemon.runtime.rate_limited_log import IncidentLog
from daemon.stripe_api.client import StripeApi
from sql.database import Database
from sql.rate_limit import SharedRateLimit
from sql.session_lock import SessionLock

log = structlog.get_logger()

# Every job, by the function that makes it from the configuration; None if the configuration does not ask for it.
JOBS: tuple[Callable[[JobsConfig], Job | None], ...] = (
    check_account.job,
    balance.job,
    thanks.job,
    operator_log.job,
    recovery.daily,
    recovery.weekly,
)

POOL_SIZE = 3
CONNECT_TIMEOUT_S = 5.0
APPLICATION_NAME = "donationd jobs"


async def run_jobs(config: JobsConfig, process: ProcessRun, metrics: JobMetrics) -> None:
    """Run the jobs, whenever this process has their lock, until the process is to stop."""
    configured = [job for make in JOBS if (job := make(config))]
    jobs = [job for job in configured if config.stripe_api_key or not job.calls_stripe]
    if others := [job.name for job in configured if job not in jobs]:
        log.info("[Jobs] STRIPE_API_KEY is not set: these jobs do not run", jobs=", ".join(others))
    thanks.mail_counter(metrics.registry)
    metrics.begin([job.name for job in jobs])
    lock = SessionLock(
        config.database_url.get_secret_value(),
        LOCK_NAME,
        application_name=f"{APPLICATION_NAME} lock",
        schema=config.ledger_schema,
    )
    async with open_dependencies(config, metrics) as deps:
        try:
            async with process.running(Runner(jobs, deps, lock, metrics).run()):
                await process.stop.wait()
        finally:
            lock.close()


@asynccontextmanager
async def open_dependencies(config: JobsConfig, metrics: JobMetrics) -> AsyncIterator[JobDependencies]:
    """What the jobs need, closed at the end."""
    database, writer = _database(config, POOL_SIZE), _database(config, 1)
    alone = IncidentLog("warning", "[Jobs] The rate of calls to Stripe is this process's own part of it")
    stripe = None
    if config.stripe_api_key:
        stripe = StripeApi(config, shared=SharedRateLimit(database, alone.report), count=metrics.call_ended)
    try:
        yield JobDependencies(
            config=config,
            database=database,
            recorder=Recorder(writer),
            stripe_api=stripe,
            metrics=metrics.registry,
        )
    finally:
        closings = [writer.close(), database.close(), *([stripe.close()] if stripe else [])]
        await asyncio.gather(*closings)


def _database(config: JobsConfig, pool_size: int) -> Database:
    return Database(
        config.database_url.get_secret_value(),
        pool_size=pool_size,
        statement_timeout_s=config.db_statement_timeout_ms / 1000,
        connect_timeout_s=CONNECT_TIMEOUT_S,
        application_name=APPLICATION_NAME,
        schema=config.ledger_schema,
    )

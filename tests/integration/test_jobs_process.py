"""`python -m daemon.jobs` as two hosts run it: one works, and the other takes over."""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from daemon.runtime.readiness import Readiness
from daemon.simulator.fake_stripe.failures import Failure
from daemon.simulator.fake_stripe.fake import TEST_KEY, FakeStripe
from daemon.stripe_api.client import ATTEMPT_S
from health_sidecar.job_runs import state_of
from health_sidecar.metrics import ApiSums
from health_sidecar.publisher import ReadinessServer
from sql.database import Database
from tests.support.api_process import ended, until
from tests.support.process import WAIT_S, Process

RUNS = "✅ This host runs the jobs"
WAITS = "another one runs the jobs"
TAKEN_OVER_S = 30.0
PASS = "SELECT started_at FROM job_runs WHERE job = 'check_account' AND outcome = %s AND started_at > %s"
Start = Callable[..., AbstractContextManager[Process]]


@pytest.fixture
async def start(tmp_path: Path, database_url: str, fake_stripe: FakeStripe) -> AsyncIterator[Start]:
    """Starts jobs processes, with a database that is ready and the fake of Stripe's API."""
    socket = tmp_path / "readiness.sock"

    def process(name: str, **variables: str) -> Process:
        environ = {
            "DATABASE_URL": database_url,
            "READINESS_SOCKET": str(socket),
            "STRIPE_LIVEMODE": "false",
            "STRIPE_API_KEY": TEST_KEY,
            "STRIPE_API_BASE": fake_stripe.base_url,
            **variables,
        }
        return Process([sys.executable, "-m", "daemon.jobs"], tmp_path / f"{name}.log", environ)

    async with ReadinessServer(socket, Readiness(ready=True), lambda: None):
        yield process


async def until_pass(database: Database, outcome: str, since: object = "-infinity") -> object:
    """When the newest pass of check_account began, as soon as it has this outcome and began later than another one."""
    async with asyncio.timeout(WAIT_S):
        while not (rows := await database.fetch(PASS, [outcome, since])):  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.02)
    return rows[0][0]


async def test_another_host_replaces_one_that_ends(start: Start, fake_stripe: FakeStripe, database: Database) -> None:
    """SIGTERM in the middle of a pass ends a process at once, with status 0 and without an error, and the next process
    begins the pass again. After kill -9 another host begins it again, well within half a minute."""
    fake_stripe.failures.add(Failure("hang", "GET /v1/webhook_endpoints", times=None))
    with start("first") as first:
        began = await until_pass(database, "running")
        first.send_signal(signal.SIGTERM)
        ending_s = time.monotonic()
        assert await ended(first) == 0
        assert time.monotonic() - ending_s < ATTEMPT_S, "it waited for Stripe's reply"
        assert "Traceback" not in first.unread()
    with start("second") as second:
        began = await until_pass(database, "running", began)
        with start("third") as third:
            await until(third, WAITS)
            fake_stripe.failures.clear()
            second.kill()
            killed_s = time.monotonic()
            await until(third, RUNS)
            assert time.monotonic() - killed_s < TAKEN_OVER_S
            await until_pass(database, "succeeded", began)


async def test_without_a_key_the_process_is_idle(start: Start, tmp_path: Path, database: Database) -> None:
    """It says so in one line of the log and in the metric that `donationd status` shows, and asks for nothing."""
    metrics = tmp_path / "metrics"
    metrics.mkdir()
    with start("idle", STRIPE_API_KEY="", PROMETHEUS_MULTIPROC_DIR=str(metrics)) as process:
        await until(process, "STRIPE_API_KEY is not set: no job runs")
        async with asyncio.timeout(WAIT_S):
            while state_of(ApiSums(metrics)) != "idle":  # noqa: ASYNC110 - of another process
                await asyncio.sleep(0.02)
        sessions = "SELECT count(*) FROM pg_stat_activity WHERE starts_with(application_name, 'donationd jobs')"
        assert await database.fetch(sessions) == [(0,)]
        process.send_signal(signal.SIGTERM)
        assert await ended(process) == 0


async def test_without_a_key_the_operator_log_is_exported(start: Start, tmp_path: Path, database: Database) -> None:
    """That job calls no Stripe. The log names those that do not run, and the metric says so."""
    metrics, operator_log = tmp_path / "metrics", tmp_path / "operator.log"
    metrics.mkdir()
    given = {"OPERATOR_LOG": str(operator_log), "PROMETHEUS_MULTIPROC_DIR": str(metrics)}
    await database.fetch("INSERT INTO recording_tickets (id) VALUES ('story-1')")
    with start("log", STRIPE_API_KEY="", **given) as process:
        line = await asyncio.to_thread(process.wait_for, "STRIPE_API_KEY is not set: these jobs do not run")
        assert "check_account, read_balance, reconcile, reconcile_all" in line
        await until(process, RUNS)
        async with asyncio.timeout(30):
            while state_of(ApiSums(metrics)) != "running_without_stripe":  # noqa: ASYNC110 - of another process
                await asyncio.sleep(0.02)
            while await database.fetch("SELECT job, outcome FROM job_runs") != [("export_operator_log", "succeeded")]:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    assert operator_log.exists()

"""The sidecar as a process: its start, its readiness, its end."""

import asyncio
import json
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from aiohttp import ClientSession

from daemon.runtime.readiness import ReadinessClient
from tests.support.api_process import until
from tests.support.process import WAIT_S, Process


def sidecar(tmp_path: Path, **environ: str) -> Process:
    """The sidecar as a process of its own."""
    settings = {"READINESS_SOCKET": str(tmp_path / "r.sock"), "METRICS_PORT": "0", **environ}
    return Process([sys.executable, "-m", "health_sidecar"], tmp_path / "sidecar.log", settings, stop=signal.SIGKILL)


async def ended(process: Process) -> str:
    """Everything that a process wrote until its end, which it reaches while the event loop goes on."""
    await asyncio.to_thread(process.wait, WAIT_S)
    return process.unread()


# No process listens on port 1 of the loopback.
NOWHERE = "postgresql://donationd:hunter2@127.0.0.1:1/ledger"


async def test_process_answers_before_the_gate_and_stops_on_sigterm(tmp_path: Path) -> None:
    """While the gate still tries, health checks answer 503, and SIGTERM is a clean end with status 0."""
    with sidecar(tmp_path, DATABASE_URL=NOWHERE, GATE_RETRY_DELAY_MS="60000") as process:
        line = process.wait_for("listening on http://127.0.0.1:")
        url = line.partition("listening on ")[2].split()[0]
        async with ClientSession(url) as session:
            async with session.get("/health/live") as live:
                assert live.status == 200
            async with session.get("/health/db") as database:
                assert database.status == 503
                assert (await database.json())["ready"] is False
            async with session.get("/metrics") as page:
                assert b"\ndb_ready 0.0\n" in await page.read()
        process.send_signal(signal.SIGTERM)
        await ended(process)
        assert process.returncode == 0
        assert not (tmp_path / "r.sock").exists()


async def test_process_exits_1_when_the_gate_fails_and_notes_the_run(tmp_path: Path) -> None:
    """No database: status 1, the original's lines, no secret in the log, and a row waiting for better days."""
    with sidecar(tmp_path, DATABASE_URL=NOWHERE, GATE_RETRY_DELAY_MS="1") as process:
        printed = await ended(process)
        assert process.returncode == 1
        assert "❌ Database connection failed" in printed
        assert "🚨 DATABASE STARTUP GATE FAILED" in printed
        assert "hunter2" not in printed
        [row] = (tmp_path / "health-check-runs.jsonl").read_text().splitlines()
        assert json.loads(row)["detail"] == "connection refused"


async def test_process_becomes_ready_and_reports_it_to_its_clients(tmp_path: Path, database_url: str) -> None:
    """A healthy database: the gate passes, a client of the readiness socket receives `ready`, and the run is a row."""
    follower = ReadinessClient(tmp_path / "r.sock")
    following = asyncio.create_task(follower.run())
    with sidecar(tmp_path, DATABASE_URL=database_url) as process:
        async with asyncio.timeout(WAIT_S):
            await follower.wait_gate()
        assert follower.ready
        for line in (
            "✅ DATABASE STARTUP GATE: PASSED",
            "[DB Watchdog] Starting (interval: 30000ms)",
            "✅ Database watchdog started",
        ):
            await until(process, line)
        process.send_signal(signal.SIGTERM)
        await ended(process)
        assert process.returncode == 0
    following.cancel()


async def test_process_notices_an_outage_that_is_reported(tmp_path: Path, database_url: str) -> None:
    """An API process's report alone makes the loss of the database known, long before the next ping is due."""
    name = database_url.split("@/", 1)[1].split("?", 1)[0]
    follower = ReadinessClient(tmp_path / "r.sock")
    following = asyncio.create_task(follower.run())
    with sidecar(tmp_path, DATABASE_URL=database_url):
        async with asyncio.timeout(WAIT_S):
            await follower.wait_gate()
        interval_s = 30.0  # of pings, by default
        async with asyncio.timeout(interval_s / 2):
            with closing(psycopg2.connect(database_url.replace(f"/{name}?", "/postgres?"))) as admin:
                admin.autocommit = True
                with admin.cursor() as cursor:
                    # No new connection is accepted, and open ones are closed: an outage of only this database.
                    cursor.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
                    cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
            while follower.state.failure_count < 3:
                follower.report_failure()
                await asyncio.sleep(0.02)
            assert not follower.ready
    following.cancel()


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"DATABASE_URL": NOWHERE, "METRICS_PORT": "x", "GATE_ATTEMPTS": "0"}, "METRICS_PORT"),
        ({}, "DATABASE_URL: not set"),
        ({"DATABASE_URL": NOWHERE, "READINESS_SOCKET": "/proc/none/r.sock"}, "The sidecar cannot run"),
    ],
)
async def test_process_refuses_what_it_cannot_use(tmp_path: Path, environ: dict[str, str], said: str) -> None:
    """A wrong configuration is status 1 with a sentence, not a traceback."""
    with sidecar(tmp_path, **environ) as process:
        printed = await ended(process)
        assert process.returncode == 1
        assert said in printed
        assert "Traceback" not in printed


# A parent that starts a child which dies with it, says so, and waits to be killed.
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c",
    "import sys, time; from daemon.runtime.lifecycle import die_with_parent; die_with_parent();"
    "sys.stdout.write('set'); sys.stdout.flush(); time.sleep(60)"])
time.sleep(60)
"""


def test_child_dies_with_its_killed_parent() -> None:
    """kill -9 of the parent ends the child: its end of the pipe closes."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.read(3) == b"set"
        parent.kill()
        assert parent.stdout.read() == b""

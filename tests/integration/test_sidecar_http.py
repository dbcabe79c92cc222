"""What the sidecar answers over HTTP, and what it measures."""

import asyncio
import gc
import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest
import structlog
from aiohttp import ClientSession, web
from prometheus_client import CollectorRegistry, generate_latest

from daemon.runtime import lifecycle
from daemon.runtime import logging as logs
from daemon.runtime.http import connection as connection_module
from daemon.runtime.http.connection import Connection
from daemon.runtime.http.errors import NoMemory
from daemon.runtime.http.health_routes import HealthChecks
from daemon.runtime.http.limits import read_body
from daemon.runtime.http.server import TURN_BODIES, HttpServer
from daemon.runtime.readiness import HEALTHY, Readiness
from health_sidecar.__main__ import LIMITS
from health_sidecar.endpoints import build_app
from health_sidecar.metrics import Metrics, build_registry
from tests.support.api_application import MakeClient
from tests.support.metrics_page import samples
from tests.support.process import WAIT_S

READY = Readiness(ready=True, last_ping_at=datetime(2024, 12, 16, 12, 30, 45, tzinfo=UTC), message=HEALTHY)
DOWN = Readiness(ready=False, last_error="connection refused", failure_count=3)
LIVE_KEYS = {"status", "timestamp", "uptime", "pid"}
DB_KEYS = {"ready", "lastPingAt", "lastError", "failureCount", "databaseUrl", "message"}


@pytest.mark.parametrize(("state", "status"), [(READY, 200), (DOWN, 503)])
async def test_health_endpoints_have_the_documented_keys(
    aiohttp_client: MakeClient, state: Readiness, status: int
) -> None:
    """Liveness is 200 always; the other two follow the state; /health has the keys of both."""
    client = await aiohttp_client(build_app(lambda: state, CollectorRegistry()))
    live = await client.get("/health/live")
    assert live.status == 200
    body = await live.json()
    assert set(body) == LIVE_KEYS
    assert (body["status"], body["pid"]) == ("alive", os.getpid())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", body["timestamp"])

    database = await client.get("/health/db")
    assert database.status == status
    assert await database.json() == state.to_json()

    both = await client.get("/health")
    assert both.status == status
    assert set(await both.json()) == LIVE_KEYS | DB_KEYS


async def test_health_routes_can_be_mounted_elsewhere(aiohttp_client: MakeClient) -> None:
    """The API mounts the same three endpoints and they see each new state."""
    states = [DOWN]
    app = web.Application()
    app.add_routes(HealthChecks(lambda: states[-1]).routes())
    client = await aiohttp_client(app)
    assert (await client.get("/health/db")).status == 503
    states.append(READY)
    assert (await client.get("/health/db")).status == 200
    assert (await client.get("/metrics")).status == 404


def test_own_metrics_are_all_there_and_db_ready_has_no_labels() -> None:
    """Every documented metric of the sidecar exists from the start, with zeros."""
    found = samples(generate_latest(build_registry(Metrics(), None)))
    assert found["db_ready", ()] == 0
    assert found["db_ping_failures_total", ()] == 0
    assert found["db_consecutive_ping_failures", ()] == 0
    assert found["db_ping_duration_seconds_count", ()] == 0
    for outcome in ("success", "failure"):
        assert found["db_reconnects_total", (("outcome", outcome),)] == 0
    for outcome in ("passed", "failed"):
        assert found["startup_gate_runs_total", (("outcome", outcome),)] == 0
    assert any(name == "process_resident_memory_bytes" for name, _ in found)
    assert any(name == "python_info" for name, _ in found)


def test_metrics_follow_what_happens() -> None:
    """Each thing measured moves its own figure."""
    metrics = Metrics()
    metrics.gate_run("passed")
    metrics.show(READY)
    metrics.ping(0.001, ok=True)
    metrics.ping(5.0, ok=False)
    metrics.reconnect(ok=False)
    metrics.reconnect(ok=True)
    found = samples(generate_latest(build_registry(metrics, None)))
    assert found["db_ready", ()] == 1
    assert found["db_last_ping_timestamp_seconds", ()] == datetime(2024, 12, 16, 12, 30, 45, tzinfo=UTC).timestamp()
    assert not any(name == "db_last_ping_error" for name, _ in found)
    assert found["db_ping_failures_total", ()] == 1
    assert found["db_ping_duration_seconds_count", ()] == 2
    assert found["db_ping_duration_seconds_bucket", (("le", "0.001"),)] == 1
    assert found["db_ping_duration_seconds_bucket", (("le", "5.0"),)] == 2
    assert found["db_reconnects_total", (("outcome", "failure"),)] == 1
    assert found["startup_gate_runs_total", (("outcome", "passed"),)] == 1
    metrics.show(DOWN)
    found = samples(generate_latest(build_registry(metrics, None)))
    assert found["db_consecutive_ping_failures", ()] == 3
    assert found["db_last_ping_error", (("error", "connection refused"),)] == 1


def test_counters_outlive_the_sidecar(tmp_path: Path) -> None:
    """A sidecar that ends after each failed gate still counts every one of them; a damaged file means zeros."""
    path = tmp_path / "run" / "totals.json"
    for _ in range(3):
        Metrics(path).gate_run("failed")
    found = samples(generate_latest(build_registry(Metrics(path), None)))
    assert found["startup_gate_runs_total", (("outcome", "failed"),)] == 3
    path.write_text("{")
    found = samples(generate_latest(build_registry(Metrics(path), None)))
    assert found["startup_gate_runs_total", (("outcome", "failed"),)] == 0


# An API process as far as metrics go: counts in multiprocess mode, under a slot instead of its pid.
API_PROCESS = """
import sys
from prometheus_client import Counter, Gauge, Histogram, values
values.ValueClass = values.MultiProcessValue(lambda: sys.argv[1])
import prometheus_client.metrics as metrics
metrics.values.ValueClass = values.ValueClass
Counter("webhook_events", "Events", ["type", "outcome"]).labels("charge.succeeded", "applied").inc(int(sys.argv[2]))
Histogram("webhook_duration_seconds", "Time").observe(0.01)
Gauge("db_pool_connections", "Pool", ["state"], multiprocess_mode="livesum").labels("idle").set(2)
"""


def run_api_process(folder: Path, slot: int, count: int) -> None:
    """Runs one API process to its end."""
    subprocess.run(
        [sys.executable, "-c", API_PROCESS, str(slot), str(count)],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)},
        check=True,
        timeout=60,
    )


def test_api_processes_are_summed_and_the_sidecar_stays_out_of_their_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slots add up, a restarted slot goes on counting, and the sidecar writes nothing there."""
    folder = tmp_path / "metrics"
    folder.mkdir()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(folder))
    metrics = Metrics()
    metrics.ping(0.001, ok=False)
    registry = build_registry(metrics, folder)
    assert list(folder.iterdir()) == []
    run_api_process(folder, 0, 3)
    run_api_process(folder, 1, 4)
    run_api_process(folder, 0, 5)  # slot 0 again, after a restart
    files = {path.name for path in folder.iterdir()}
    found = samples(generate_latest(registry))
    assert found["webhook_events_total", (("outcome", "applied"), ("type", "charge.succeeded"))] == 12
    assert found["webhook_duration_seconds_count", ()] == 3
    assert found["db_pool_connections", (("state", "idle"),)] == 4
    assert found["db_ping_failures_total", ()] == 1
    assert {path.name for path in folder.iterdir()} == files


def test_unreadable_api_files_cost_only_the_sums(tmp_path: Path) -> None:
    """A file that is just being made hides the API's sums for one scrape; the sidecar's own figures stay."""
    (tmp_path / "counter_0.db").write_bytes(b"")
    found = samples(generate_latest(build_registry(Metrics(), tmp_path)))
    assert ("db_ready", ()) in found
    assert samples(generate_latest(build_registry(Metrics(), tmp_path / "absent")))


async def test_a_reply_in_parts_names_no_version() -> None:
    """A handler that sends its reply's head itself sends the same `Server` header as the others."""

    async def parts(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"part")
        return response

    app = web.Application()
    app.add_routes([web.get("/parts", parts)])
    async with HttpServer(web.AppRunner(app), LIMITS) as server, ClientSession() as session:
        await server.listen(host="127.0.0.1", port=0)
        host, port = server.addresses[0][:2]
        async with session.get(f"http://{host}:{port}/parts") as reply:
            assert (await reply.text(), reply.headers["Server"]) == ("part", "donationd")


POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n"
UNREAD = b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 30000\r\n\r\n" + b"x" * 30_000


@pytest.mark.parametrize("sent", [POST + b"x" * 200_000, UNREAD * 2, UNREAD * 10], ids=["cut", "two", "ten"])
async def test_a_connection_that_ends_before_its_reply_leaves_no_reference_cycle(sent: bytes) -> None:
    """Its memory is free at once, and not only after the next search for cycles, which would delay everything: also
    that of requests which the client has sent ahead.
    """
    handled = asyncio.Queue[None]()

    async def reads(request: web.Request) -> web.Response:
        handled.put_nowait(None)
        with suppress(ConnectionError):
            await read_body(request, 1_000_000)
        while request.transport:  # noqa: ASYNC110 - until the client has left
            await asyncio.sleep(0.01)
        return web.Response()

    def connections() -> list[Connection]:
        return [each for each in gc.get_objects() if isinstance(each, Connection)]

    app = web.Application()
    app.add_routes([web.route("*", "/", reads)])
    async with HttpServer(web.AppRunner(app), LIMITS) as server:
        await server.listen(host="127.0.0.1", port=0)
        gc.disable()
        others = connections()
        try:
            for _ in range(3):
                _, writer = await asyncio.open_connection(*server.addresses[0][:2])
                writer.write(sent)
                await handled.get()
                writer.transport.abort()
                with suppress(ConnectionError):
                    await writer.wait_closed()
            async with asyncio.timeout(WAIT_S):
                while len(connections()) > len(others):  # noqa: ASYNC110 - no event reports it
                    await asyncio.sleep(0.01)
        finally:
            gc.enable()


async def test_a_rejected_connection_ends_when_its_client_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server waits for clients that still send, so that they see the reply; it reads nothing of them meanwhile."""
    monkeypatch.setattr(connection_module, "LINGER_S", 3 * WAIT_S)
    rejected, left = asyncio.get_running_loop().create_future(), asyncio.Event()

    async def rejects(request: web.Request) -> web.Response:
        connection = cast(Connection, request.protocol)
        connection.reject(NoMemory())
        rejected.set_result(connection)
        await left.wait()
        return web.Response(status=503)

    app = web.Application()
    app.add_routes([web.post("/", rejects)])
    async with HttpServer(web.AppRunner(app), LIMITS) as server:
        await server.listen(host="127.0.0.1", port=0)
        _, writer = await asyncio.open_connection(*server.addresses[0][:2])
        writer.write(POST + b"x" * 200_000)
        connection = await rejected
        writer.transport.abort()
        await writer.wait_closed()
        left.set()
        async with asyncio.timeout(WAIT_S):
            while connection.transport:  # noqa: ASYNC110 - no event reports it
                await asyncio.sleep(0.01)


async def test_nothing_is_received_of_a_request_that_was_rejected_before_its_turn() -> None:
    """Its body was to be received further in a later iteration of the event loop, and was rejected before that."""
    is_reading = asyncio.get_running_loop().create_future()

    async def rejects(request: web.Request) -> web.Response:
        connection = request.protocol
        assert isinstance(connection, Connection)
        assert request.transport
        while request.transport.is_reading():  # noqa: ASYNC110 - until more of the body has arrived than is kept
            await asyncio.sleep(0.01)
        for _ in range(TURN_BODIES):
            server.body_turns.call(lambda: None)
        connection.reject(NoMemory())
        for _ in range(5):
            await asyncio.sleep(0)
        is_reading.set_result(request.transport.is_reading())
        return web.Response()

    app = web.Application()
    app.add_routes([web.post("/", rejects)])
    async with HttpServer(web.AppRunner(app), LIMITS) as server:
        await server.listen(host="127.0.0.1", port=0)
        _, writer = await asyncio.open_connection(*server.addresses[0][:2])
        writer.write(POST + b"x" * 200_000)
        async with asyncio.timeout(WAIT_S):
            assert not await is_reading
        writer.close()
        await writer.wait_closed()


async def test_metrics_page_is_served(aiohttp_client: MakeClient) -> None:
    """Prometheus gets its text format, and OpenMetrics where it asks for that."""
    client = await aiohttp_client(build_app(lambda: READY, build_registry(Metrics(), None)))
    plain = await client.get("/metrics")
    assert plain.status == 200
    assert plain.headers["Content-Type"].startswith("text/plain")
    assert b"\ndb_ready 0.0\n" in await plain.read()
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    newer = await client.get("/metrics", headers=accept)
    assert newer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert (await newer.read()).endswith(b"# EOF\n")


def test_text_lines_begin_with_the_message(capsys: pytest.CaptureFixture[str]) -> None:
    """For people: the message word for word, then key=value; nothing below the level."""
    logs.configure("text", "INFO", timestamps=False)
    log = structlog.get_logger()
    log.info("[DB Watchdog] ✅ Reconnect successful", attempt=2, note="two words")
    log.debug("unseen")
    assert capsys.readouterr().out == "[DB Watchdog] ✅ Reconnect successful attempt=2 note='two words'\n"


def test_json_lines_are_objects(capsys: pytest.CaptureFixture[str]) -> None:
    """For machines: one object a line, and no rulers of banners."""
    logs.configure("json", "INFO")
    log = structlog.get_logger()
    log.info("=" * 60)
    log.warning("[DB Watchdog] ❌ Ping failed (1/3)", error="timeout")
    [line] = capsys.readouterr().out.splitlines()
    entry = json.loads(line)
    assert entry["event"] == "[DB Watchdog] ❌ Ping failed (1/3)"
    assert (entry["level"], entry["error"]) == ("warning", "timeout")


def test_a_failed_process_waits_only_under_supervisord() -> None:
    """By hand a failure ends at once; under supervisord it waits for the rest of the minimum."""
    assert lifecycle.remaining_s(0.0, {}) == 0.0
    supervised = {"SUPERVISOR_ENABLED": "1"}
    assert lifecycle.remaining_s(100.0, supervised, clock=lambda: 102.0) == lifecycle.MIN_UPTIME_S - 2.0
    assert lifecycle.remaining_s(0.0, supervised, clock=lambda: 102.0) == 0.0

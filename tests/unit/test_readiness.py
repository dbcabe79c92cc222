"""The readiness socket: its lines, and both of its ends run against each other."""

import asyncio
import os
import socket
import stat
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.runtime.readiness import HEALTHY, MAX_LINE_BYTES, SILENCE_S, Readiness, ReadinessClient, decode, encode
from health_sidecar.publisher import ReadinessServer

READY = Readiness(ready=True, last_ping_at=datetime(2024, 12, 16, 12, 30, 45, 123000, tzinfo=UTC), message=HEALTHY)
DOWN = Readiness(ready=False, last_error="timeout", failure_count=3)

# Generous for a loaded machine; nothing waits this long when all is well.
PATIENCE_S = 30.0


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until `condition` holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what is awaited has no event of its own
            await asyncio.sleep(0.001)


@asynccontextmanager
async def connected(path: Path, clock: Callable[[], float] = lambda: 0.0) -> AsyncIterator[ReadinessClient]:
    """A client that runs meanwhile; by its clock no time passes in which the server is silent."""
    client = ReadinessClient(path, clock=clock)
    task = asyncio.create_task(client.run())
    try:
        yield client
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def sending(path: Path, sent: bytes) -> AsyncIterator[None]:
    """A server that is not our sidecar: it sends `sent` to every client, and then nothing."""

    async def speak(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        writer.write(sent)

    writers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_unix_server(speak, path)
    try:
        yield
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()


def ignore_reports() -> None:
    """For servers whose clients report nothing."""


def test_json_has_the_documented_keys_and_times() -> None:
    """The keys are those of GET /health/db, times are RFC 3339 in UTC."""
    assert READY.to_json() == {
        "ready": True,
        "lastPingAt": "2024-12-16T12:30:45.123Z",
        "lastError": None,
        "failureCount": 0,
        "databaseUrl": "configured",
        "message": "Database connection is healthy",
    }


@given(
    ready=st.booleans(),
    at=st.none() | st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1)),
    error=st.none() | st.text(max_size=100),
    failures=st.integers(0, 10**6),
    message=st.text(max_size=200),
)
def test_every_state_survives_the_line(
    ready: bool, at: datetime | None, error: str | None, failures: int, message: str
) -> None:
    """decode(encode(state)) is the state, on exactly one line of bounded length."""
    moment = at and at.replace(tzinfo=UTC, microsecond=at.microsecond // 1000 * 1000)
    state = Readiness(ready=ready, last_ping_at=moment, last_error=error, failure_count=failures, message=message)
    line = encode(state)
    assert line.count(b"\n") == 1
    assert decode(line) == state


def test_unknown_keys_are_tolerated() -> None:
    """A newer sidecar may say more."""
    line = msgspec.json.encode({**READY.to_json(), "replicaLag": 3}) + b"\n"
    assert decode(line) == READY


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"ready\n",
        b"[]\n",
        b"{}\n",
        b'{"ready":"yes"}\n',
        b'{"ready":1}\n',
        encode(READY)[:-1],
        encode(READY)[:-10] + b"\n",
        b'{"ready":true,"lastPingAt":"2024-12-16T12:30:45"}\n',
        b'{"ready":true,"failureCount":-1}\n',
        b'{"ready":true,"message":"' + b"x" * MAX_LINE_BYTES + b'"}\n',
        b"\xff\xfe\n",
        b'{"ready":true,"later":' + b"[" * 1500 + b"\n",
    ],
)
def test_bad_lines_are_errors(line: bytes) -> None:
    """Whatever is no whole, well-typed, bounded state is refused."""
    with pytest.raises(ValueError):
        decode(line)


@given(st.binary(max_size=300))
def test_noise_never_makes_ready(noise: bytes) -> None:
    """Random bytes are an error, never a state, and never any other exception."""
    with suppress(ValueError):
        assert not decode(noise).ready


async def test_state_is_pushed_at_connect_and_at_each_change(tmp_path: Path) -> None:
    """A client receives the state as soon as it is connected, and each later one without a request."""
    path = tmp_path / "r.sock"
    async with ReadinessServer(path, READY, ignore_reports) as server, connected(path) as client:
        await until(lambda: client.ready)
        assert client.state == READY
        server.publish(DOWN)
        await until(lambda: not client.ready)
        assert client.state == DOWN


async def test_all_clients_receive_every_change(tmp_path: Path) -> None:
    """API processes don't share a connection, they all get the same."""
    path = tmp_path / "r.sock"
    async with ReadinessServer(path, DOWN, ignore_reports) as server, connected(path) as one, connected(path) as two:
        server.publish(READY)
        await until(lambda: one.ready and two.ready)


async def test_heartbeat_repeats_the_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any change the state comes again and again."""
    monkeypatch.setattr("health_sidecar.publisher.HEARTBEAT_S", 0.01)
    path = tmp_path / "r.sock"
    async with ReadinessServer(path, READY, ignore_reports) as server:
        beating = asyncio.create_task(server.run())
        reader, writer = await asyncio.open_unix_connection(path)
        async with asyncio.timeout(PATIENCE_S):
            assert [await reader.readline() for _ in range(4)] == [encode(READY)] * 4
        writer.transport.abort()
        beating.cancel()


async def test_three_seconds_of_silence_are_not_ready(tmp_path: Path) -> None:
    """The state of a sidecar that is silent, because it is stopped or hangs, is valid for three seconds only."""
    clock = Clock()
    path = tmp_path / "r.sock"
    async with ReadinessServer(path, READY, ignore_reports), connected(path, clock) as client:
        await until(lambda: client.ready)
        clock.now_s = SILENCE_S - 0.01
        assert client.ready
        clock.now_s = SILENCE_S
        assert not client.ready
        assert client.state.last_error == "no sidecar"
        assert not client.state.ready


async def test_end_of_the_sidecar_is_not_ready_and_its_return_is_found(tmp_path: Path) -> None:
    """When the sidecar ends its clients are not ready at once; when it runs again they connect by themselves."""
    path = tmp_path / "r.sock"
    async with connected(path) as client:
        async with ReadinessServer(path, READY, ignore_reports):
            await until(lambda: client.ready)
        await until(lambda: not client.ready)
        async with ReadinessServer(path, READY, ignore_reports):
            await until(lambda: client.ready)


@pytest.mark.parametrize("noise", [b"nonsense\n", b"x" * (MAX_LINE_BYTES * 3), b'{"ready":1}\n'])
async def test_bad_line_is_not_ready(tmp_path: Path, noise: bytes) -> None:
    """After a line that cannot be read the state before it is no longer valid."""
    path = tmp_path / "r.sock"
    clock = Clock()
    async with sending(path, encode(READY) + noise), connected(path, clock) as client:
        await client.wait_gate()
        await until(lambda: not client.ready)


async def test_no_sidecar_is_not_ready(tmp_path: Path) -> None:
    """Before it has received a state a client is not ready."""
    async with connected(tmp_path / "missing.sock") as client:
        await asyncio.sleep(0)
        assert not client.ready
        assert client.state.to_json()["ready"] is False


async def test_gate_waits_for_the_first_ready_state(tmp_path: Path) -> None:
    """An API process started by hand opens its port when the sidecar is ready for the first time."""
    path = tmp_path / "r.sock"
    async with ReadinessServer(path, DOWN, ignore_reports) as server, connected(path) as client:
        waiting = asyncio.create_task(client.wait_gate())
        await until(lambda: client.state == DOWN)
        assert not waiting.done()
        server.publish(READY)
        async with asyncio.timeout(PATIENCE_S):
            await waiting


async def test_report_reaches_the_sidecar(tmp_path: Path) -> None:
    """A failed query's report rings at the sidecar; many at once are one piece of news."""
    path = tmp_path / "r.sock"
    reports: list[int] = []
    clock = Clock()
    async with ReadinessServer(path, READY, lambda: reports.append(1)), connected(path, clock) as client:
        await until(lambda: client.ready)
        for _ in range(1000):
            client.report_failure()
        await until(lambda: len(reports) > 0)
        clock.now_s += 1.0
        client.report_failure()
        await until(lambda: len(reports) == 2)


async def test_report_without_a_sidecar_is_harmless(tmp_path: Path) -> None:
    """Without a sidecar a report is dropped, and its caller does not wait."""
    ReadinessClient(tmp_path / "missing.sock").report_failure()


async def test_noise_from_a_client_does_not_disturb_others(tmp_path: Path) -> None:
    """A client that sends rubbish or an endless line loses its own connection at most, and rings nothing."""
    path = tmp_path / "r.sock"
    reports: list[int] = []
    async with ReadinessServer(path, READY, lambda: reports.append(1)), connected(path) as client:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"hello\n[]\n{}\n\xff\n" + b'{"a":' + b"[" * 1500 + b"\n" + b"x" * (MAX_LINE_BYTES * 40))
        with suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE_S):
                assert await reader.readline() == encode(READY)
                while await reader.read(1024):
                    pass
        writer.transport.abort()
        await until(lambda: client.ready)
        assert reports == []


async def test_a_report_is_received_after_any_noise(tmp_path: Path) -> None:
    """Lines that mean nothing, however deep they nest, do not end the connection that they came by."""
    path = tmp_path / "r.sock"
    received = asyncio.Event()
    async with ReadinessServer(path, READY, received.set):
        _, writer = await asyncio.open_unix_connection(path)
        writer.write(
            b"[" * 1500 + b"\n" + b'{"later":' + b"[" * 1500 + b"]" * 1500 + b"}\n" + b'{"queryFailed":true}\n'
        )
        async with asyncio.timeout(PATIENCE_S):
            await received.wait()
        writer.transport.abort()


async def test_client_that_never_reads_is_cut_off(tmp_path: Path) -> None:
    """A client that does not read cannot make the sidecar's memory grow."""
    path = tmp_path / "r.sock"
    async with ReadinessServer(path, READY, ignore_reports) as server:
        stuck = socket.socket(socket.AF_UNIX)
        stuck.connect(str(path))
        await until(lambda: len(server._writers) == 1)
        async with asyncio.timeout(PATIENCE_S):
            while server._writers:
                server.publish(READY)
                await asyncio.sleep(0)
        stuck.close()


async def test_socket_is_private_to_owner_and_group(tmp_path: Path) -> None:
    """The socket appears with mode 0660, whatever the umask, in a folder made for it, and nothing else beside it."""
    path = tmp_path / "run" / "r.sock"
    before = os.umask(0)
    try:
        async with ReadinessServer(path, READY, ignore_reports):
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
            assert [entry.name for entry in path.parent.iterdir()] == ["r.sock"]
    finally:
        os.umask(before)
    assert list(path.parent.iterdir()) == []


async def test_only_its_own_maker_removes_the_socket(tmp_path: Path) -> None:
    """A sidecar that ends late leaves its successor's socket alone."""
    path = tmp_path / "r.sock"
    old = ReadinessServer(path, DOWN, ignore_reports)
    await old.__aenter__()
    async with ReadinessServer(path, READY, ignore_reports), connected(path) as client:
        await old.__aexit__(None, None, None)
        assert path.exists()
        await until(lambda: client.ready)
    assert not path.exists()


async def test_the_first_state_is_awaited_but_not_for_long(tmp_path: Path) -> None:
    """A process that starts has the sidecar's state before it serves; without a sidecar it serves all the same."""
    path = tmp_path / "r.sock"
    async with connected(path) as client:
        await client.wait_first_state(0.01)
        assert client.state.last_error == "no sidecar"
        async with ReadinessServer(path, READY, ignore_reports):
            await client.wait_first_state(10)
            assert client.ready


async def test_a_removed_socket_is_made_anew(tmp_path: Path) -> None:
    """Who comes after the socket vanished finds the sidecar all the same, and who has found it before stays."""
    path = tmp_path / "r.sock"
    async with ReadinessServer(path, READY, ignore_reports) as server, connected(path) as early:
        heartbeat = asyncio.create_task(server.run())
        await until(lambda: early.ready)
        path.unlink()
        async with connected(path) as late:
            await until(lambda: late.ready)
        assert early.ready
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        heartbeat.cancel()
    assert not path.exists()


async def test_a_foreign_socket_in_our_place_is_replaced(tmp_path: Path) -> None:
    """A dead socket at its place is replaced, a file is not, and clients that are connected stay so."""
    path = tmp_path / "r.sock"
    async with ReadinessServer(path, READY, ignore_reports) as server, connected(path) as early:
        heartbeat = asyncio.create_task(server.run())
        await until(lambda: early.ready)
        path.unlink()
        with socket.socket(socket.AF_UNIX) as foreign:
            foreign.bind(str(path))
        async with connected(path) as late:
            await until(lambda: late.ready)
        path.unlink()
        path.write_text("mine")
        server.publish(Readiness(ready=False))
        await until(lambda: not early.ready)
        server.publish(READY)
        await until(lambda: early.ready)
        assert not heartbeat.done()
        heartbeat.cancel()
    assert path.read_text() == "mine"


async def test_another_sidecar_keeps_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sidecars do not fight for the socket: the later one has it, heartbeat after heartbeat of the former."""
    monkeypatch.setattr("health_sidecar.publisher.HEARTBEAT_S", 0.01)
    path = tmp_path / "r.sock"
    async with ReadinessServer(path, READY, ignore_reports) as former:
        beats = 0

        def count(_state: Readiness) -> None:
            nonlocal beats
            beats += 1

        monkeypatch.setattr(former, "publish", count)
        path.unlink()
        async with ReadinessServer(path, Readiness(ready=False), ignore_reports):
            made = path.stat().st_ino
            heartbeat = asyncio.create_task(former.run())
            await until(lambda: beats > 3)
            assert path.stat().st_ino == made
            heartbeat.cancel()


async def test_other_files_are_never_replaced(tmp_path: Path) -> None:
    """Pointing READINESS_SOCKET at a file is a mistake that costs nothing."""
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(FileExistsError):
        await ReadinessServer(path, READY, ignore_reports).__aenter__()
    assert path.read_text() == "data"


async def test_stale_socket_of_a_killed_sidecar_is_replaced(tmp_path: Path) -> None:
    """kill -9 leaves a socket behind; the next process takes its place."""
    path = tmp_path / "r.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    async with ReadinessServer(path, READY, ignore_reports), connected(path) as client:
        await until(lambda: client.ready)


def test_looking_at_the_state_is_cheap() -> None:
    """Each request looks: the best of many rounds stays around a quarter of a microsecond, far below ten."""
    client = ReadinessClient(Path("unused.sock"))
    rounds = []
    for _ in range(20):
        began_s = time.perf_counter()
        for _ in range(1000):
            _ = client.ready
        rounds.append((time.perf_counter() - began_s) / 1000)
    assert min(rounds) < 10e-6

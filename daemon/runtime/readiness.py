"""The wire contract of readiness: the state, its line, the end that publishes it and the end that follows it.

Connecting is the whole request. The publisher writes one JSON line at once, at each change and each second; silence,
end of file or a line it cannot read leave a follower not ready. The one thing a follower ever writes is a line that
says that a query of its own failed for want of a database.
"""

import asyncio
import contextlib
import math
import os
import socket
import stat
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Self

import msgspec

# A state is about 200 bytes; anything near this is no state.
MAX_LINE_BYTES = 4096
HEARTBEAT_S = 1.0
# Three heartbeats: one may be late on a busy machine, three in a row are a dead or stopped sidecar.
SILENCE_S = 3.0
# Between two tries of a follower to reach the socket: short, since all requests are refused meanwhile.
RETRY_S = 0.1
# A follower that does not read is cut off here, after some minutes of heartbeats.
MAX_UNREAD_BYTES = 64 * 1024
# More than any sensible number of API processes; a bound against a client that leaks connections.
MAX_FOLLOWERS = 256
# A thousand failing requests are one piece of news.
REPORT_SPACING_S = 0.05

HEALTHY = "Database connection is healthy"
GATE_FAILED = "The database startup gate failed"
UNAVAILABLE = "Database connection is currently unavailable"

_REPORT_LINE = b'{"queryFailed":true}\n'


class Readiness(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """Whether the database can be used, as the sidecar sees it.

    `last_error` is a class of error such as "timeout", never a driver's text.
    """

    ready: bool
    last_ping_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    last_error: str | None = None
    failure_count: Annotated[int, msgspec.Meta(ge=0)] = 0
    database_url: str = "configured"
    message: str = UNAVAILABLE

    def to_json(self) -> dict[str, object]:
        """The reply of GET /health/db."""
        return {
            "ready": self.ready,
            "lastPingAt": None if self.last_ping_at is None else utc_text(self.last_ping_at),
            "lastError": self.last_error,
            "failureCount": self.failure_count,
            "databaseUrl": self.database_url,
            "message": self.message,
        }


def utc_text(at: datetime) -> str:
    """A moment as RFC 3339 in UTC with milliseconds: 2024-12-16T12:30:45.123Z."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def encode(state: Readiness) -> bytes:
    """The state as one line, its line feed included."""
    return msgspec.json.encode(state.to_json()) + b"\n"


_DECODER = msgspec.json.Decoder(Readiness)


def decode(line: bytes) -> Readiness:
    """The state in a line. Keys we do not know are ignored. Raises ValueError for anything else unexpected."""
    if len(line) > MAX_LINE_BYTES:
        raise ValueError("the line is too long")
    if not line.endswith(b"\n"):
        raise ValueError("the line was cut off")
    try:
        return _DECODER.decode(line)  # msgspec's errors are ValueErrors
    except RecursionError:
        raise ValueError("the line nests too deep") from None


class _Report(msgspec.Struct, rename="camel"):
    """What a follower may say."""

    query_failed: bool = False


def _is_report(line: bytes) -> bool:
    """Whether the line says that a query failed; later versions may say other things."""
    try:
        return msgspec.json.decode(line, type=_Report).query_failed
    except (ValueError, RecursionError):
        return False


class Publisher:
    """The sidecar's end: a Unix stream server that pushes the state to whoever connects.

    `on_report` is called for each line by which an API process says that a query failed.
    """

    def __init__(self, path: Path, state: Readiness, on_report: Callable[[], None]) -> None:
        self.state = state
        self._path = path
        self._on_report = on_report
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._made: tuple[int, int] | None = None

    async def __aenter__(self) -> Self:
        """Open the socket. Raises OSError if its place is taken by something else or can't be written."""
        await self._listen()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Take the socket away, if it is still ours, and hang up."""
        # While our listener is open no other file can carry its inode number.
        if _identity(self._path) == self._made:
            self._path.unlink(missing_ok=True)
        if self._server is not None:
            self._server.close()
        for writer in tuple(self._writers):
            writer.transport.abort()

    def publish(self, state: Readiness) -> None:
        """Make `state` the current one and push it to every follower. Never blocks."""
        self.state = state
        line = encode(state)
        for writer in tuple(self._writers):
            _push(writer, line)

    async def run(self) -> None:
        """Repeat the state each second, for ever: a follower that hears nothing stops believing us.

        A socket that somebody removed or replaced is made anew, else no process started from then on would find us;
        but not where another sidecar answers. As long as that can't be done, those who have found us stay.
        """
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            self.publish(self.state)
            if _identity(self._path) != self._made and not _answers(self._path):
                with contextlib.suppress(OSError):
                    await self._listen()

    async def _listen(self) -> None:
        """Open the socket at its place, instead of the one we had. Followers that have found us stay."""
        listener = _bind(self._path)
        self._made = _identity(self._path)
        former, self._server = (
            self._server,
            await asyncio.start_unix_server(self._serve, sock=listener, limit=MAX_LINE_BYTES),
        )
        if former is not None:
            former.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One follower's connection, until either side ends it."""
        if len(self._writers) >= MAX_FOLLOWERS:
            writer.transport.abort()
            return
        self._writers.add(writer)
        try:
            _push(writer, encode(self.state))
            # readline raises ValueError for an endless line
            with contextlib.suppress(OSError, ValueError):
                while line := await reader.readline():
                    if _is_report(line):
                        self._on_report()
        finally:
            self._writers.discard(writer)
            writer.transport.abort()


def _push(writer: asyncio.StreamWriter, line: bytes) -> None:
    """Send a line, or hang up on a follower that has stopped reading."""
    if writer.transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
        writer.transport.abort()
    elif not writer.transport.is_closing():
        writer.write(line)


def _bind(path: Path) -> socket.socket:
    """A listening socket at `path`, mode 0660 from the first moment it can be found there.

    Replaces a dead sidecar's socket, never any other kind of file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(f"{path} exists and is no socket")
    temporary = path.with_name(f".{os.getpid()}")  # never longer than the name itself by much: addresses are short
    temporary.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.bind(str(temporary))
        temporary.chmod(0o660)
        listener.listen(MAX_FOLLOWERS)
        temporary.rename(path)
    except OSError:
        listener.close()
        temporary.unlink(missing_ok=True)
        raise
    return listener


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of what is at `path`; None if nothing is."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _answers(path: Path) -> bool:
    """Whether somebody listens on the socket at `path`. A Unix socket says so at once."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:  # a full queue: somebody is there
            return True
        except OSError:
            return False
        return True


class Follower:
    """An API process's end: keeps the last state in memory, so that looking at it costs next to nothing."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._last = Readiness(ready=False, last_error="no sidecar")
        self._heard_until_s = -math.inf
        self._ready_until_s = -math.inf
        self._reported_s = -math.inf
        self._heard = asyncio.Event()
        self._gate_passed = asyncio.Event()
        self._writer: asyncio.StreamWriter | None = None

    @property
    def ready(self) -> bool:
        """Whether the sidecar said so within the last three seconds. One look at the clock."""
        return self._clock() < self._ready_until_s

    @property
    def state(self) -> Readiness:
        """The sidecar's last word, or our own where it has fallen silent."""
        if self._clock() < self._heard_until_s:
            return self._last
        return msgspec.structs.replace(self._last, ready=False, last_error="no sidecar", message=UNAVAILABLE)

    async def run(self) -> None:
        """Follow the sidecar for ever: connect, listen, and when it ends connect again."""
        while True:
            # ValueError: a bad or endless line; EOFError: the sidecar ended
            with contextlib.suppress(OSError, ValueError, EOFError, TimeoutError):
                await self._listen()
            await asyncio.sleep(RETRY_S)

    async def wait_word(self, timeout_s: float) -> None:
        """Return once the sidecar has said anything for the first time, at the latest after `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._heard.wait()

    async def wait_gate(self) -> None:
        """Return once the sidecar has said `ready` for the first time."""
        await self._gate_passed.wait()

    def report_failure(self) -> None:
        """Tell the sidecar that a query failed for want of a database. Never blocks, and may be called at any rate."""
        now_s = self._clock()
        if self._writer is None or now_s < self._reported_s + REPORT_SPACING_S:
            return
        self._reported_s = now_s
        _push(self._writer, _REPORT_LINE)

    async def _listen(self) -> None:
        """One connection, until it ends in an exception."""
        async with asyncio.timeout(SILENCE_S):
            reader, writer = await asyncio.open_unix_connection(self._path, limit=MAX_LINE_BYTES)
        self._writer = writer
        try:
            while True:
                async with asyncio.timeout(SILENCE_S):
                    line = await reader.readline()
                if not line:
                    raise EOFError
                self._take(decode(line))
        finally:
            self._writer = None
            self._forget()
            writer.transport.abort()

    def _take(self, state: Readiness) -> None:
        """Believe `state` for as long as a sidecar may be silent."""
        self._last = state
        self._heard_until_s = self._clock() + SILENCE_S
        self._ready_until_s = self._heard_until_s if state.ready else -math.inf
        self._heard.set()
        if state.ready:
            self._gate_passed.set()

    def _forget(self) -> None:
        """Believe nothing until the sidecar speaks again."""
        self._heard_until_s = self._ready_until_s = -math.inf

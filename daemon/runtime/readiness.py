"""Readiness: whether the database can be used, as a line of the readiness socket, and the client that reads it.

Connecting is the whole request. The server (`health_sidecar.publisher`) sends the state as one JSON line at once, at
each change and every second. After silence, the end of the connection or a line that cannot be read, the client is not
ready. The only line that a client sends reports that a query of its own failed because there was no database.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec

# A state has about 200 bytes; a line of this size is not a state.
MAX_LINE_BYTES = 4096
HEARTBEAT_S = 1.0
# Three heartbeats: one may be late on a busy machine, but when three are missing the sidecar is dead or stopped.
SILENCE_S = 3.0
# Between two attempts of a client to connect: short, because all requests are rejected meanwhile.
RETRY_S = 0.1
# The connection of a client that does not read is closed at this, after some minutes of heartbeats.
MAX_UNREAD_BYTES = 64 * 1024
# A thousand failing requests need one report.
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
    """A time as RFC 3339 in UTC with milliseconds: 2024-12-16T12:30:45.123Z."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def encode(state: Readiness) -> bytes:
    """The state as one line, its line feed included."""
    return msgspec.json.encode(state.to_json()) + b"\n"


_DECODER = msgspec.json.Decoder(Readiness)


def decode(line: bytes) -> Readiness:
    """The state in a line. Unknown keys are ignored. Raises ValueError for everything else that is unexpected."""
    if len(line) > MAX_LINE_BYTES:
        raise ValueError("the line is too long")
    if not line.endswith(b"\n"):
        raise ValueError("the line was cut off")
    try:
        return _DECODER.decode(line)  # msgspec's errors are ValueErrors
    except RecursionError:
        raise ValueError("the line is nested too deeply") from None


class _Report(msgspec.Struct, rename="camel"):
    """What a client may send."""

    query_failed: bool = False


def is_report(line: bytes) -> bool:
    """Whether the line reports a failed query; later versions may send other lines."""
    try:
        return msgspec.json.decode(line, type=_Report).query_failed
    except (ValueError, RecursionError):
        return False


def push(writer: asyncio.StreamWriter, line: bytes) -> None:
    """Send a line, or close the connection if the other end has stopped reading."""
    if writer.transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
        writer.transport.abort()
    elif not writer.transport.is_closing():
        writer.write(line)


class ReadinessClient:
    """An API process's end: keeps the newest state in memory, so that reading it costs next to nothing."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._last = Readiness(ready=False, last_error="no sidecar")
        self._valid_until_s = -math.inf
        self._ready_until_s = -math.inf
        self._reported_s = -math.inf
        self._has_state = asyncio.Event()
        self._gate_passed = asyncio.Event()
        self._writer: asyncio.StreamWriter | None = None

    @property
    def ready(self) -> bool:
        """Whether the sidecar sent `ready` within the last three seconds. This reads the clock once."""
        return self._clock() < self._ready_until_s

    @property
    def state(self) -> Readiness:
        """The newest state that the sidecar sent, or our own state if it has been silent."""
        if self._clock() < self._valid_until_s:
            return self._last
        return msgspec.structs.replace(self._last, ready=False, last_error="no sidecar", message=UNAVAILABLE)

    async def run(self) -> None:
        """Stay connected for ever: when a connection ends, connect again."""
        while True:
            # ValueError: a line that is too long or cannot be read; EOFError: the sidecar ended
            with contextlib.suppress(OSError, ValueError, EOFError, TimeoutError):
                await self._read()
            await asyncio.sleep(RETRY_S)

    async def wait_first_state(self, timeout_s: float) -> None:
        """Return once the sidecar has sent a state for the first time, at the latest after `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._has_state.wait()

    async def wait_gate(self) -> None:
        """Return once the sidecar has sent `ready` for the first time."""
        await self._gate_passed.wait()

    def report_failure(self) -> None:
        """Report that a query failed because there was no database. Never blocks, and may be called at any rate."""
        now_s = self._clock()
        if self._writer is None or now_s < self._reported_s + REPORT_SPACING_S:
            return
        self._reported_s = now_s
        push(self._writer, _REPORT_LINE)

    async def _read(self) -> None:
        """Read one connection until it ends in an exception."""
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
            self._valid_until_s = self._ready_until_s = -math.inf
            writer.transport.abort()

    def _take(self, state: Readiness) -> None:
        """`state` is valid for as long as a sidecar may be silent."""
        self._last = state
        self._valid_until_s = self._clock() + SILENCE_S
        self._ready_until_s = self._valid_until_s if state.ready else -math.inf
        self._has_state.set()
        if state.ready:
            self._gate_passed.set()

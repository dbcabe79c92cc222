"""Readiness: whether the database can be used; its form on the readiness socket, and the client of that socket.

A client connects, and sends no request. The server (`health_sidecar.publisher`) sends the state as one line of JSON: at
once, at each change, and every second. If no line arrives for three seconds, the connection ends, or a line is invalid,
the client's state is "not ready". The only line that a client sends reports that a query of its own failed because the
database could not be used.
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

# A state has about 200 bytes; a longer line than this is invalid.
MAX_LINE_BYTES = 4096
# The server sends the state again after this time.
HEARTBEAT_S = 1.0
# Three heartbeats: one may be late on a busy machine; if three are missing, the sidecar has ended or hangs.
SILENCE_S = 3.0
# Between two attempts of a client to connect: short, because all requests are rejected meanwhile.
RETRY_S = 0.1
# If so many bytes wait for a client that does not read, which takes some minutes, its connection is closed.
MAX_UNREAD_BYTES = 64 * 1024
# At least so much time is between two reports of a client: a thousand failed requests need only one.
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
    """The state in a line. Unknown keys are ignored. Raises ValueError if the line is not a state."""
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
    """Whether the line reports a failed query. Other lines, which later versions may send, are ignored."""
    try:
        return msgspec.json.decode(line, type=_Report).query_failed
    except (ValueError, RecursionError):
        return False


def send_line(writer: asyncio.StreamWriter, line: bytes) -> None:
    """Send a line, or close the connection if the other end has stopped reading."""
    if writer.transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
        writer.transport.abort()
    elif not writer.transport.is_closing():
        writer.write(line)


class ReadinessClient:
    """The client in an API process. It keeps the newest state in memory, so that reading it needs no I/O."""

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
        """Whether the newest state is "ready" and at most three seconds old. Each request reads this."""
        return self._clock() < self._ready_until_s

    @property
    def state(self) -> Readiness:
        """The newest state that the sidecar sent; "not ready", because of "no sidecar", if it is too old."""
        if self._clock() < self._valid_until_s:
            return self._last
        return msgspec.structs.replace(self._last, ready=False, last_error="no sidecar", message=UNAVAILABLE)

    async def run(self) -> None:
        """Connect, and connect again whenever the connection ends. Never returns."""
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
        """Report a query that failed because the database could not be used. Never waits; call it for each failure."""
        now_s = self._clock()
        if self._writer is None or now_s < self._reported_s + REPORT_SPACING_S:
            return
        self._reported_s = now_s
        send_line(self._writer, _REPORT_LINE)

    async def _read(self) -> None:
        """Connect, and take over each state that arrives. Ends only with an exception."""
        async with asyncio.timeout(SILENCE_S):
            reader, writer = await asyncio.open_unix_connection(self._path, limit=MAX_LINE_BYTES)
        self._writer = writer
        try:
            while True:
                async with asyncio.timeout(SILENCE_S):
                    line = await reader.readline()
                if not line:
                    raise EOFError
                self._keep(decode(line))
        finally:
            self._writer = None
            self._valid_until_s = self._ready_until_s = -math.inf
            writer.transport.abort()

    def _keep(self, state: Readiness) -> None:
        """Make this the newest state. It is valid for SILENCE_S."""
        self._last = state
        self._valid_until_s = self._clock() + SILENCE_S
        self._ready_until_s = self._valid_until_s if state.ready else -math.inf
        self._has_state.set()
        if state.ready:
            self._gate_passed.set()

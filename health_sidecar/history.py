"""Gate runs and changes of state: those not yet written to health_check_runs, and the newest of all in memory.

A row is first written to a small file, and removed from it when PostgreSQL has stored it: an outage must not be
lost because the database was unavailable.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from daemon.runtime import files
from daemon.runtime.files import DamagedFile
from daemon.runtime.rate_limited_log import OnChangeLog
from sql import load
from sql.errors import DatabaseUnavailable, StatementRejected

# About 60 kB on disk. When it is full, the first half (how the outage began) and the newest rows are kept.
MAX_WAITING = 400
MAX_BYTES = 1024 * 1024
# Details are short sentences; this is a bound for all cases.
MAX_DETAIL_CHARS = 500
# Some megabytes at most, and years of ordinary operation.
MAX_RECENT = 10_000


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A row of health_check_runs."""

    kind: Literal["gate", "transition"]
    ok: bool
    state: str
    detail: str
    at: Annotated[datetime, msgspec.Meta(tz=True)]


class History:
    """Rows that wait for the database, oldest first; with `path` None they are only in memory."""

    def __init__(
        self, path: Path | None, execute: Callable[[str, Mapping[str, object]], Awaitable[list[tuple[Any, ...]]]]
    ) -> None:
        self._path = path
        self._execute = execute
        self._wake = asyncio.Event()
        self._unwritten = OnChangeLog("warning", "[DB Watchdog] cannot write health_check_runs")
        self._unread = OnChangeLog("warning", "[DB Watchdog] cannot read health_check_runs")
        self._unsaved = OnChangeLog("warning", "[DB Watchdog] cannot keep the history file")
        self._has_read_earlier_rows = False
        self.waiting: list[Run] = _load(path) if path else []
        self.recent: deque[Run] = deque(self.waiting, MAX_RECENT)

    def record(self, run: Run) -> None:
        """Keep a row. It is written to the database after the next `wake`."""
        run = msgspec.structs.replace(run, detail=run.detail[:MAX_DETAIL_CHARS])
        self.recent.append(run)
        self.waiting.append(run)
        if len(self.waiting) > MAX_WAITING:
            del self.waiting[MAX_WAITING // 2]
        self._save()

    def wake(self) -> None:
        """The database answers: let `run` write the rows that wait. This is cheap if there are none."""
        if self.waiting:
            self._wake.set()

    async def run(self) -> None:
        """Write waiting rows after each `wake`, for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self.drain()
            await self.read_earlier_rows()

    async def drain(self) -> None:
        """Write the rows that wait, oldest first, until PostgreSQL does not accept one."""
        while self.waiting:
            row = self.waiting[0]
            try:
                await self._execute(load("record_run"), msgspec.structs.asdict(row))
            except (DatabaseUnavailable, StatementRejected) as error:
                self._unwritten.report(str(error))
                return
            self._unwritten.clear()
            # `record` may have dropped or added rows meanwhile
            with contextlib.suppress(ValueError):
                self.waiting.remove(row)
            self._save()

    async def read_earlier_rows(self) -> None:
        """Put the rows of earlier process runs before those of this one, once the database has answered."""
        if self._has_read_earlier_rows:
            return
        try:
            rows = await self._execute(load("recent_runs"), {"limit": MAX_RECENT})
        except (DatabaseUnavailable, StatementRejected) as error:
            self._unread.report(str(error))
            return
        written = [Run(kind=kind, ok=ok, state=state, detail=detail, at=at) for kind, ok, state, detail, at in rows]
        self.recent = deque([*reversed(written), *self.waiting], MAX_RECENT)
        self._has_read_earlier_rows = True

    def _save(self) -> None:
        """Write the rows that wait to the file, or remove it if there are none. Errors are only logged."""
        if self._path is None:
            return
        try:
            if self.waiting:
                files.write(self._path, b"".join(msgspec.json.encode(run) + b"\n" for run in self.waiting))
            else:
                self._path.unlink(missing_ok=True)
                files.report(self._path, None)
            self._unsaved.clear()
        except OSError as error:
            self._unsaved.report(str(error.strerror), path=str(self._path))


def _load(path: Path) -> list[Run]:
    """The rows that an earlier process run has left; lines that cannot be read are left out."""
    rows: list[Run] = []
    try:
        lines = (files.read(path, MAX_BYTES) or b"").splitlines()
    except DamagedFile as error:
        files.report(path, str(error))
        return rows
    for line in lines[:MAX_WAITING]:
        with contextlib.suppress(ValueError, RecursionError):
            rows.append(msgspec.json.decode(line, type=Run))
    unread = len(lines) - len(rows)
    files.report(path, f"{unread} of its {len(lines)} lines cannot be read" if unread else None)
    return rows

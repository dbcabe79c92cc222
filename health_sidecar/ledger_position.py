"""Whether the database went back in time, as after a failover to a lagging standby or from a backup (SPEC 14).

What this host has seen of the ledger is kept in a file, outside the database: the newest entry of the journal, a recent
event and the newest operator action. Their rows stay as they are, so a database without one of them is not the one
in which it was committed, or an earlier state of it. Numbers alone would not show that: they are given again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import structlog
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from daemon.runtime import files
from daemon.runtime.rate_limited_log import OnChangeLog
from sql import load
from sql.connection import Row
from sql.errors import DatabaseUnavailable, StatementRejected

log = structlog.get_logger()

FILE = "ledger-position.json"
MAX_BYTES = 4096
# What was committed in the last second before the database went back may remain unnoticed. The query takes less than a
# millisecond, and the file is written only if something is new.
INTERVAL_S = 1.0
# Stripe delivers an event again for so long (https://docs.stripe.com/webhooks#automatic-retries): one that was recorded
# just before the loss may be as old.
DELIVERED_AGAIN = timedelta(days=3)
COMPARED = timedelta(days=30)  # as far back a restored ledger is compared before mails are sent (end_restore.sql)
TIME = "%Y-%m-%d %H:%M:%S UTC"

Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class Mark(msgspec.Struct, frozen=True):
    """A row: its key, and the time at which it was recorded."""

    key: str
    at: Moment


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """What a host has seen of a ledger.

    Attributes:
        began_at: identifies the ledger.
    """

    began_at: Moment
    entry: Mark | None = None
    event: Mark | None = None
    action: Mark | None = None

    def marks(self) -> dict[str, Mark]:
        """The rows that have been seen, by their kind."""
        marks = {"journal entry": self.entry, "event": self.event, "operator action": self.action}
        return {kind: mark for kind, mark in marks.items() if mark is not None}


class Reading(NamedTuple):
    """What the database contains.

    Attributes:
        present: the kinds of rows of which it has the one that was seen.
        common_at: the time of the newest entry from before what was seen; None if there is none.
    """

    position: Position
    is_standby: bool
    present: frozenset[str]
    common_at: datetime | None


def find_loss(seen: Position, found: Reading) -> str:
    """What a database lacks, and what to do, as a sentence; empty if it lacks nothing that was seen."""
    if found.position.began_at != seen.began_at:
        return (
            f"DATABASE_URL leads to another ledger, which began at {found.position.began_at:{TIME}}; this host has "
            f"seen one that began at {seen.began_at:{TIME}}. Correct DATABASE_URL; or, if this is intended, run: "
            "donationd accept-ledger"
        )
    lost = {kind: mark for kind, mark in seen.marks().items() if kind not in found.present}
    if not lost:
        return ""
    rows = ", ".join(f"{kind} {mark.key} of {mark.at:{TIME}}" for kind, mark in lost.items())
    known_until = found.common_at or min(mark.at for mark in lost.values())
    replayed = known_until - DELIVERED_AGAIN
    compared = min(replayed, max(mark.at for mark in seen.marks().values()) - COMPARED)
    return (
        f"the database went back in time: it lacks what this host has seen ({rows}). "
        f"After the restore of a backup run, before it is used: donationd operator-log apply (without that log, repeat "
        f"what operators did after {known_until:{TIME}}). Then: donationd replay --since {replayed:%Y-%m-%d}; "
        f"donationd reconcile --since {compared:%Y-%m-%d}; "
        "on each host: donationd accept-ledger"
    )


def advance(seen: Position, found: Position) -> Position:
    """What has been seen now, if nothing was lost. An older event than the one seen before is no progress."""
    event = max(filter(None, (seen.event, found.event)), key=lambda mark: mark.at, default=None)
    return msgspec.structs.replace(found, event=event)


class LedgerPosition(Collector):
    """Compares the database with the file at `path`, and keeps the file up to date.

    A missing or damaged file begins again with what the database contains. While something is lost the file stays as it
    is, until the database has it again or `accept` is called, in this process or in another one.

    Args:
        fetch: runs a statement.
    """

    def __init__(
        self, path: Path, fetch: Callable[[str, Mapping[str, object]], Awaitable[list[tuple[Any, ...]]]]
    ) -> None:
        self._path = path
        self._fetch = fetch
        self._seen: Position | None = None
        self._is_known = False
        self._lost = OnChangeLog("error", "[Ledger] ❌ The ledger is not the one that this host has seen")
        self._unsaved = OnChangeLog("warning", "[Ledger] cannot keep what was seen of the ledger")
        self.problem = ""

    async def run(self, is_ready: Callable[[], bool]) -> None:
        """Check regularly while the database can be used, for ever."""
        while True:
            if is_ready():
                await self.check()
            await asyncio.sleep(INTERVAL_S)

    async def check(self, *, remember: bool = True) -> str:
        """Compare now, and return the problem, which is empty if there is none.

        While the database does not answer, and on a standby, which may receive later what it lacks, the last result
        remains.

        Args:
            remember: whether the file is kept up to date.
        """
        if self._seen is None or self.problem:  # another process may have accepted the ledger
            self._seen = files.read_json(self._path, Position, MAX_BYTES)
        try:
            found = await self._read(self._seen)
        except (DatabaseUnavailable, StatementRejected) as error:
            log.debug("position of the ledger not read", reason=str(error))
            return self.problem
        if not found.is_standby:
            self._report(find_loss(self._seen, found) if self._seen else "")
            if remember and not self.problem:
                self._save(advance(self._seen, found.position) if self._seen else found.position)
        return self.problem

    async def accept(self) -> Position:
        """From now on what the database contains is what was seen. Returns it.

        Raises DatabaseUnavailable, StatementRejected, or OSError if the file cannot be written.
        """
        position = (await self._read(None)).position
        files.write(self._path, msgspec.json.encode(position))
        return position

    async def _read(self, seen: Position | None) -> Reading:
        entry, event, action = (seen.entry, seen.event, seen.action) if seen else (None, None, None)
        times = [mark.at for mark in seen.marks().values()] if seen else []
        given: dict[str, object] = {"seen_until": max(times, default=None)}
        for name, mark in (("entry", entry), ("event", event), ("action", action)):
            given |= {name: mark.key if mark else None, f"{name}_at": mark.at if mark else None}
        [row] = await self._fetch(load("ledger_position"), given)
        return _reading(row)

    def _report(self, problem: str) -> None:
        if self.problem and not problem:
            log.info("[Ledger] ✅ The ledger is the one that this host has seen, or it was accepted")
        self.problem, self._is_known = problem, True
        self._lost.set(problem)

    def _save(self, position: Position) -> None:
        if position == self._seen:
            return
        self._seen = position
        try:
            files.write(self._path, msgspec.json.encode(position))
            self._unsaved.clear()
        except OSError as error:
            self._unsaved.report(str(error.strerror), path=str(self._path))

    def collect(self) -> Iterator[Metric]:
        """The metric, once the database has been read."""
        if self._is_known:
            yield GaugeMetricFamily(
                "ledger_position_lost",
                "1 while the database lacks what this host has seen of the ledger, or contains another ledger, else 0",
                value=int(bool(self.problem)),
            )


def _reading(row: Row) -> Reading:
    """A row of ledger_position.sql."""
    began_at, is_standby, *marks, has_entry, has_event, has_action, common_at = row
    entry, event, action = (
        Mark(key, at.astimezone(UTC)) if key is not None else None
        for key, at in zip(marks[::2], marks[1::2], strict=True)
    )
    kinds = {"journal entry": has_entry, "event": has_event, "operator action": has_action}
    return Reading(
        position=Position(began_at=began_at.astimezone(UTC), entry=entry, event=event, action=action),
        is_standby=is_standby,
        present=frozenset(kind for kind, is_there in kinds.items() if is_there),
        common_at=common_at and common_at.astimezone(UTC),
    )

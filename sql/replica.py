"""Reads from a replica while it is near its primary, and otherwise from the primary (SPEC 14).

`ReplicaCheck` compares the two servers once a second. A read only looks at the result, which is in memory.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import datetime

import structlog

from sql import load
from sql.connection import Params, Row
from sql.database import Database
from sql.errors import DatabaseUnavailable, StatementRejected
from sql.replica_lag import FAILED, Position, ReplicaLag

# Over the standard library's logger: a command that has not configured any logging prints none of this.
log = structlog.wrap_logger(logging.getLogger(__name__))

INTERVAL_S = 1.0
# A read takes milliseconds. One that a replica does not answer in this time is repeated on the primary, and both have
# to end within the request's deadline.
REPLICA_TIMEOUT_S = 2.0


class ReplicaCheck:
    """Compares a replica with its primary.

    Args:
        replica, primary: pools of connections to them, which other statements may share.
        clock: seconds of a monotonic clock.
    """

    def __init__(self, replica: Database, primary: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._replica = replica
        self._primary = primary
        self._clock = clock
        # The replica's newest entry at the last comparison. The present one may not be visible on the primary yet: its
        # commit waits for a synchronous standby.
        self._seen: tuple[int, datetime | None] = (0, None)
        self._reported: str | None = None
        self.lag = ReplicaLag(clock())

    async def run(self, compared: Callable[["ReplicaCheck"], None]) -> None:
        """Compare them regularly, for ever.

        Args:
            compared: called after each comparison.
        """
        while True:
            await self.compare()
            compared(self)
            await asyncio.sleep(INTERVAL_S)

    async def compare(self) -> None:
        """Compare them now. If one of them does not answer, what was known holds until MAX_LAG_S have passed."""
        asked = "the replica"
        try:
            replica = await self._position(self._replica)
            asked, at_s = "the primary", self._clock()
            primary = await self._position(self._primary)
        except (DatabaseUnavailable, StatementRejected, TimeoutError) as error:
            self.lag.problem = f"{asked} does not answer: {error or 'timeout'}"
        else:
            self.lag.compare(replica, primary, at_s)
            self._seen = (replica.seq, replica.recorded_at)
        self._report()

    async def _position(self, database: Database) -> Position:
        seq, recorded_at = self._seen
        asked_about = {"seq": seq, "recorded_at": recorded_at}
        async with asyncio.timeout(REPLICA_TIMEOUT_S):
            [row] = await database.fetch(load("replication_position"), asked_about)
        return Position._make(row)

    def _report(self) -> None:
        """Write a line about which server is read, and why, when that changes."""
        problem = "" if self.is_readable(self.lag.server) else self.lag.problem
        if problem == self._reported:
            return
        self._reported = problem
        if problem:
            log.warning("[DB] Reads use the primary, not the replica", reason=problem, bytes_behind=self.lag.bytes)
        else:
            log.info("[DB] Reads use the replica")

    def is_readable(self, server: datetime | None) -> bool:
        """Whether connections to this server may be used for reading now."""
        return self.lag.is_readable(server, self._clock())

    @property
    def seconds_behind(self) -> float:
        """By how much the replica is behind, at most."""
        return self.lag.seconds(self._clock())


class ReadDatabase:
    """Runs statements that only read: on the replica while it may be read, otherwise on the primary.

    Args:
        replica, primary: pools of connections to them.
        check: says whether the replica may be read.
    """

    def __init__(self, replica: Database, primary: Database, check: ReplicaCheck) -> None:
        self._replica = replica
        self._primary = primary
        self._check = check

    async def fetch(self, sql: str, params: Params = (), *, prepare: str | None = None) -> list[Row]:
        """As `Database.fetch`. What fails on the replica is repeated on the primary."""
        if self._check.is_readable(self._replica.server):
            rows = await self._fetch_from_replica(sql, params, prepare)
            if rows is not None:
                return rows
        return await self._primary.fetch(sql, params, prepare=prepare)

    async def _fetch_from_replica(self, sql: str, params: Params, prepare: str | None) -> list[Row] | None:
        """None if it failed, or if the rows may be older than they may be."""
        generation = self._replica.generation
        try:
            async with asyncio.timeout(REPLICA_TIMEOUT_S):
                rows = await self._replica.fetch(sql, params, prepare=prepare)
        except StatementRejected:
            return None  # perhaps a migration has not arrived there yet
        except (DatabaseUnavailable, TimeoutError):
            self._check.lag.distrust(FAILED)
            return None
        # With a new generation the connections broke meanwhile: the server may have been restarted, and have gone back.
        is_compared = generation == self._replica.generation and self._check.is_readable(self._replica.server)
        return rows if is_compared else None

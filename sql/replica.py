"""Reads from a replica while it is near its primary, and otherwise from the primary (SPEC 14).

The two servers are compared once a second. A read only looks at the result, which is in memory.
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
from sql.replica_lag import CONNECTIONS_CHANGED, FAILED, NOT_COMPARED, Position, ReplicaLag

# Over the standard library's logger: a command that has not configured any logging prints none of this.
log = structlog.wrap_logger(logging.getLogger(__name__))

INTERVAL_S = 1.0
ANSWER_S = 2.0  # for a position, which takes a millisecond


class ReadDatabase:
    """Runs statements that only read: on the replica while it may be read, otherwise on the primary.

    What is known of the replica holds for the connections of its pool, and for no others: new ones may lead to another
    server, or to one that was restarted and has gone back.

    Args:
        replica, primary: pools of connections to them. A read may take the time of both.
        name: of the reads, for the log.
        clock: seconds of a monotonic clock.
    """

    def __init__(
        self, replica: Database, primary: Database, name: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._replica = replica
        self._primary = primary
        self._name = name
        self._clock = clock
        # The replica's newest entry at the last comparison. The present one may not be visible on the primary yet: its
        # commit waits for a synchronous standby.
        self._seen: tuple[int, datetime | None] = (0, None)
        self._compared_generation = 0  # of the replica's connections
        self._reported: str | None = None
        self.lag = ReplicaLag(clock())

    async def fetch(self, sql: str, params: Params = (), *, prepare: str | None = None) -> list[Row]:
        """As `Database.fetch`. What fails on the replica is repeated on the primary."""
        if self.is_readable():
            rows = await self._fetch_from_replica(sql, params, prepare)
            if rows is not None:
                return rows
        return await self._primary.fetch(sql, params, prepare=prepare)

    async def _fetch_from_replica(self, sql: str, params: Params, prepare: str | None) -> list[Row] | None:
        """None if it failed, or if the rows may be older than they may be."""
        try:
            rows = await self._replica.fetch(sql, params, prepare=prepare)
        except StatementRejected:
            return None  # perhaps a migration has not arrived there yet
        except DatabaseUnavailable:
            self.lag.distrust(FAILED)
            return None
        return rows if self.is_readable() else None

    def is_readable(self) -> bool:
        """Whether the replica may be read now."""
        return self.lag.is_readable(self._clock()) and self._replica.generation == self._compared_generation

    @property
    def seconds_behind(self) -> float:
        """By how much the replica is behind, at most."""
        return self.lag.seconds(self._clock())

    async def run(self, compared: Callable[["ReadDatabase"], None] = lambda _database: None) -> None:
        """Compare the servers regularly, for ever.

        Args:
            compared: called after each comparison.
        """
        while True:
            await self.compare()
            compared(self)
            await asyncio.sleep(INTERVAL_S)

    async def compare(self) -> None:
        """Compare the servers now. If one of them does not answer, what was known holds until MAX_LAG_S have passed."""
        asked, generation = "the replica", self._replica.generation
        try:
            replica = await self._position(self._replica)
            asked, at_s = "the primary", self._clock()
            primary = await self._position(self._primary)
        except (DatabaseUnavailable, StatementRejected, TimeoutError) as error:
            self.lag.problem = f"{asked} does not answer: {error or 'timeout'}"
        else:
            self.lag.compare(replica, primary, at_s)
            self._seen = (replica.seq, replica.recorded_at)
        if generation != self._replica.generation:
            self.lag.distrust(CONNECTIONS_CHANGED)
        self._compared_generation = self._replica.generation
        self._report()

    async def _position(self, database: Database) -> Position:
        seq, recorded_at = self._seen
        asked_about = {"seq": seq, "recorded_at": recorded_at}
        async with asyncio.timeout(ANSWER_S):
            [row] = await database.fetch(load("replication_position"), asked_about)
        return Position._make(row)

    def _report(self) -> None:
        """Write a line about which server is read, and why, when that changes."""
        problem = "" if self.is_readable() else self.lag.problem
        if problem in {self._reported, NOT_COMPARED}:
            return
        self._reported = problem
        if problem:
            behind = self.lag.bytes
            log.warning("[DB] Reads use the primary", reads=self._name, reason=problem, bytes_behind=behind)
        else:
            log.info("[DB] Reads use the replica", reads=self._name)

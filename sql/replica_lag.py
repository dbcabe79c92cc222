"""How far a replica is behind its primary, and until when it may be read (SPEC 14). Decisions only, no I/O.

A replica contains everything that the primary had committed at a moment if it has replayed the write-ahead log up to
the primary's position at that moment. So the primary's positions are kept with their times. This is also right while
the primary writes nothing, and no clocks of different hosts are compared.

Positions can be compared only within one history. Two servers have the same history as long as they are copies of one
cluster, the replica has not replayed more than the primary has written, and the primary has the replica's newest entry
of the journal. After a failover a replica of the new primary and the former primary do not.
"""

import math
from collections import deque
from datetime import datetime
from typing import NamedTuple

MAX_LAG_S = 5.0
MAX_LAG_BYTES = 1024 * 1024
# Of the primary's positions so many are kept. With one a second a lag of up to ten minutes is known exactly.
MOMENTS = 600

NOT_COMPARED = "it has not been compared with the primary often enough yet"
FAILED = "a read of it failed"
CONNECTIONS_CHANGED = "its connections broke, or lead to another server now"
TOO_FAR = "it is too far behind the primary"
PRIMARY_IS_STANDBY = "DATABASE_URL leads to a standby, with which no replica can be compared"
OTHER_DATABASE = "READ_DATABASE_URL leads to another database than DATABASE_URL, or to another cluster"
NO_REPLICA = "READ_DATABASE_URL leads to a server that is no replica: it accepts writes"
OTHER_HISTORY = "the replica contains what the primary lacks: it follows another primary"


class Position(NamedTuple):
    """A row of replication_position.sql.

    Attributes:
        identity: of the database, and of the cluster that all copies come from.
        wal_bytes: the position in the write-ahead log: what the primary has made durable, or a standby has replayed.
        seq, recorded_at: of the newest entry of the journal; 0 and None without one.
        has_entry: whether the entry is there that the server was asked about.
    """

    identity: str
    is_standby: bool
    wal_bytes: int
    seq: int
    recorded_at: datetime | None
    has_entry: bool


class _Moment(NamedTuple):
    """Where the primary was at a time, in seconds of a monotonic clock."""

    at_s: float
    wal_bytes: int
    seq: int

    def is_in(self, replica: Position) -> bool:
        """Whether the replica contains everything that had been committed then."""
        return replica.wal_bytes >= self.wal_bytes and replica.seq >= self.seq


class ReplicaLag:
    """What is known of one replica.

    Attributes:
        problem: why it may not be read; empty if it may.
        bytes: by which it was behind; 0 if it cannot be compared.
    """

    def __init__(self, now_s: float) -> None:
        self._moments: deque[_Moment] = deque(maxlen=MOMENTS)
        self._unknown_since_s = now_s
        self._contains_s = -math.inf  # it contains everything that was committed until then
        self._readable_until_s = -math.inf
        self.problem = NOT_COMPARED
        self.bytes = 0

    def compare(self, replica: Position, primary: Position, at_s: float) -> None:
        """Take in two positions: the replica's, and the primary's, which was asked afterwards, at `at_s`."""
        if difference := _difference(replica, primary):
            self._moments.clear()
            self.bytes = 0
            self.distrust(difference)
            return
        if self._moments and primary.wal_bytes < self._moments[-1].wal_bytes:
            self._moments.clear()  # another server is the primary now
        self._moments.append(_Moment(at_s, primary.wal_bytes, primary.seq))
        while self._moments and self._moments[0].is_in(replica):
            self._contains_s = self._moments.popleft().at_s
        self.bytes = primary.wal_bytes - replica.wal_bytes
        until_s = self._contains_s + MAX_LAG_S
        is_near = self.bytes < MAX_LAG_BYTES and at_s < until_s
        self._readable_until_s = until_s if is_near else -math.inf
        is_known = self.bytes >= MAX_LAG_BYTES or self.seconds(at_s) >= MAX_LAG_S
        self.problem = "" if is_near else TOO_FAR if is_known else NOT_COMPARED

    def distrust(self, problem: str) -> None:
        """It may not be read before it has been compared again: it may be another server, or one that was restarted."""
        self._unknown_since_s = max(self._unknown_since_s, self._contains_s)
        self._contains_s = self._readable_until_s = -math.inf
        self.problem = problem

    def is_readable(self, now_s: float) -> bool:
        """Whether it may be read."""
        return now_s < self._readable_until_s

    def seconds(self, now_s: float) -> float:
        """By how much it is behind, at most: the age of the newest moment that it is known to contain; since the first
        comparison if there is none."""
        return now_s - max(self._contains_s, self._unknown_since_s)


def _difference(replica: Position, primary: Position) -> str:
    """Why the positions cannot be compared, and what is wrong; empty if they can."""
    if primary.is_standby:
        return PRIMARY_IS_STANDBY
    if replica.identity != primary.identity:
        return OTHER_DATABASE
    if not replica.is_standby:
        return NO_REPLICA
    if replica.wal_bytes > primary.wal_bytes or not primary.has_entry:
        return OTHER_HISTORY
    return ""

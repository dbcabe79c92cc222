"""When a replica may be read: never while it may lack what was committed more than MAX_LAG_S ago."""

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sql.replica_lag import (
    FAILED,
    MAX_LAG_BYTES,
    MAX_LAG_S,
    MOMENTS,
    NO_REPLICA,
    NOT_COMPARED,
    OTHER_DATABASE,
    OTHER_HISTORY,
    PRIMARY_IS_STANDBY,
    TOO_FAR,
    Position,
    ReplicaLag,
)

RECORDED = datetime(2026, 1, 1, tzinfo=UTC)
PRIMARY = Position("cluster/1", False, 1000, 7, RECORDED, True)
REPLICA = PRIMARY._replace(is_standby=True)


def compared(replica: Position = REPLICA, primary: Position = PRIMARY) -> ReplicaLag:
    """Compared once, at time 0."""
    lag = ReplicaLag(0)
    lag.compare(replica, primary, 0)
    return lag


def test_an_idle_replica_is_not_behind() -> None:
    """While nothing is written a replica that has everything is readable, and not behind, however long that lasts."""
    lag = ReplicaLag(0)
    assert (lag.is_readable(0), lag.problem) == (False, NOT_COMPARED)
    for now_s in range(1000):
        lag.compare(REPLICA, PRIMARY, now_s)
        assert (lag.is_readable(now_s), lag.seconds(now_s), lag.bytes) == (True, 0, 0)


def test_the_bound_counts_from_the_last_proof() -> None:
    """Without a further comparison the replica is readable for MAX_LAG_S after the last one, and no longer."""
    lag = compared()
    assert lag.is_readable(math.nextafter(MAX_LAG_S, 0))
    assert not lag.is_readable(MAX_LAG_S)
    assert lag.seconds(60) == 60


@given(st.lists(st.tuples(st.integers(0, MAX_LAG_BYTES), st.floats(0, 1), st.floats(0, 3)), max_size=30))
def test_never_older_than_the_bound(steps: list[tuple[int, float, float]]) -> None:
    """Whatever is written and replayed: whenever the replica is readable it contains everything that was committed
    MAX_LAG_S before, and `seconds` is at least its true lag."""
    lag, now_s, written, replayed = ReplicaLag(0), 0.0, 0, 0
    commits = [(0.0, 0)]  # time and position
    for wal_bytes, share, pause_s in steps:
        written += wal_bytes
        commits.append((now_s, written))
        replayed += int((written - replayed) * share)
        replica = REPLICA._replace(wal_bytes=replayed, seq=0)
        lag.compare(replica, PRIMARY._replace(wal_bytes=written, seq=0), now_s)
        for later_s in (now_s, now_s + pause_s):
            missing = min((at_s for at_s, position in commits if position > replayed), default=later_s)
            assert lag.seconds(later_s) >= later_s - missing
            if lag.is_readable(later_s):
                assert later_s - missing < MAX_LAG_S
        if lag.is_readable(now_s):
            assert written - replayed < MAX_LAG_BYTES
        now_s += pause_s


def test_a_paused_replica() -> None:
    """While nothing is replayed the lag grows from the last moment that the replica contains; afterwards it is none."""
    lag = ReplicaLag(0)
    seen = []
    for now_s in range(12):
        replayed = 1000 if now_s < 3 or now_s >= 10 else 1002
        primary = PRIMARY._replace(wal_bytes=1000 + now_s if now_s < 10 else 1000)
        lag.compare(REPLICA._replace(wal_bytes=min(replayed, primary.wal_bytes)), primary, now_s)
        seen.append((lag.seconds(now_s), lag.is_readable(now_s)))
    assert [usable for _, usable in seen] == [True] * 7 + [False] * 3 + [True] * 2


def test_a_constant_delay_is_shown() -> None:
    """A replica with recovery_min_apply_delay=30s is 30 s behind, and not readable; one of 3 s is readable."""
    for delay_s, readable in ((30, False), (3, True)):
        lag = ReplicaLag(0)
        for now_s in range(100):
            replica = REPLICA._replace(wal_bytes=1000 + max(0, now_s - delay_s))
            lag.compare(replica, PRIMARY._replace(wal_bytes=1000 + now_s), now_s)
        assert (lag.seconds(99), lag.is_readable(99)) == (delay_s, readable)


def test_a_long_lag_takes_no_more_memory() -> None:
    """Of the primary's positions at most MOMENTS are kept."""
    lag = ReplicaLag(0)
    for now_s in range(3 * MOMENTS):
        lag.compare(REPLICA, PRIMARY._replace(wal_bytes=1001 + now_s), now_s)
    assert len(lag._moments) == MOMENTS
    assert lag.seconds(3 * MOMENTS) == 3 * MOMENTS


def test_too_many_bytes() -> None:
    """A replica that is a mebibyte behind is not readable, however short ago that was written."""
    lag = compared()
    lag.compare(REPLICA, PRIMARY._replace(wal_bytes=1000 + MAX_LAG_BYTES - 1), 1)
    assert lag.is_readable(1)
    lag.compare(REPLICA, PRIMARY._replace(wal_bytes=1000 + MAX_LAG_BYTES), 2)
    assert (lag.is_readable(2), lag.problem) == (False, TOO_FAR)


@pytest.mark.parametrize(
    ("replica", "primary", "problem"),
    [
        (REPLICA, PRIMARY._replace(is_standby=True), PRIMARY_IS_STANDBY),
        (REPLICA._replace(identity="another/1"), PRIMARY, OTHER_DATABASE),
        (REPLICA._replace(is_standby=False), PRIMARY, NO_REPLICA),
        (REPLICA, PRIMARY._replace(has_entry=False), OTHER_HISTORY),
        (REPLICA._replace(wal_bytes=1001), PRIMARY, OTHER_HISTORY),
    ],
)
def test_servers_that_cannot_be_compared(replica: Position, primary: Position, problem: str) -> None:
    """The replica is unreadable at once, and an earlier proof does not count any more when all is well again."""
    lag = compared()
    lag.compare(replica, primary, 1)
    assert (lag.is_readable(1), lag.problem) == (False, problem)
    lag.compare(REPLICA._replace(wal_bytes=999), PRIMARY, 2)
    assert (lag.is_readable(2), lag.problem, lag.seconds(2)) == (False, NOT_COMPARED, 2)
    lag.compare(REPLICA, PRIMARY, 3)
    assert (lag.is_readable(3), lag.problem) == (True, "")


def test_a_replica_without_the_primary_s_entries() -> None:
    """A position alone proves nothing: a server whose journal is shorter does not contain what the primary had."""
    lag = compared(REPLICA._replace(seq=6))
    assert not lag.is_readable(0)


def test_a_failed_read() -> None:
    """After it the replica must be compared again, because it may have been restarted, and then have gone back."""
    lag = compared()
    lag.distrust(FAILED)
    assert not lag.is_readable(0)
    lag.compare(REPLICA._replace(wal_bytes=500), PRIMARY, 1)
    assert not lag.is_readable(1)


def test_a_new_primary_behind_the_former_one() -> None:
    """After a failover that lost the newest transactions, the positions of the former primary are not waited for."""
    lag = compared(primary=PRIMARY._replace(wal_bytes=5000))
    lag.compare(REPLICA, PRIMARY, 1)
    assert lag.is_readable(1)

"""The connections of an API process for reads: to the primary and, with READ_DATABASE_URL, to a replica."""

from collections.abc import Callable, Coroutine
from typing import Any

from prometheus_client import CollectorRegistry, Gauge
from pydantic import SecretStr

from daemon.api.config import Config
from sql.database import Database, Queryable
from sql.replica import ReadDatabase

Connect = Callable[[SecretStr, int, int], Database]  # a URL, the number of connections, a statement's time limit in ms
# A read takes milliseconds. One that a replica does not answer in this time is repeated on the primary, and both have
# to end within the request's deadline.
REPLICA_TIMEOUT_MS = 1000
REPLICA_STATES = ("none", "usable", "unusable")  # none: READ_DATABASE_URL is not set


class ReadPools:
    """What reads use. Ledger and public pages have connections of their own, so that neither waits for the other.

    Attributes:
        ledger: for totals, ledger pages and checkouts.
        pages: for the public pages of tickets.
        primary: the connections behind `ledger` that lead to the primary, for reads that no replica may answer.
        pools: all that are behind them.
    """

    ledger: Queryable
    pages: Queryable

    def __init__(self, config: Config, connect: Connect) -> None:
        sizes = [
            (config.db_pool_size, config.db_statement_timeout_ms),
            (config.public_page_connections, config.public_page_timeout_ms),
        ]
        primary = [connect(config.database_url, *size) for size in sizes]
        self.pools = primary
        self.primary = primary[0]
        self.ledger, self.pages = primary
        self._replicated: list[ReadDatabase] = []
        if config.read_database_url:
            replica = [
                connect(config.read_database_url, connections, min(timeout_ms, REPLICA_TIMEOUT_MS))
                for connections, timeout_ms in sizes
            ]
            self.pools = primary + replica
            pairs = zip(replica, primary, ("ledger", "public pages"), strict=True)
            self.ledger, self.pages = self._replicated = [ReadDatabase(*pair) for pair in pairs]

    def tasks(self, registry: CollectorRegistry) -> list[Coroutine[Any, Any, None]]:
        """What must run while the process serves: the comparisons of the replica. Metrics show that of the ledger."""
        metrics = ReplicaMetrics(registry)
        if not self._replicated:
            return []
        ledger, pages = self._replicated
        return [ledger.run(metrics.show), pages.run()]


class ReplicaMetrics:
    """What an API process knows of its replica."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._state = Gauge(
            "read_replica_state",
            "1 for the state of the replica in READ_DATABASE_URL, else 0",
            ["state"],
            multiprocess_mode="mostrecent",
            registry=registry,
        )
        self._seconds = Gauge(
            "read_replica_lag_seconds",
            "By how much the replica is behind its primary, at most; 0 without a replica",
            multiprocess_mode="mostrecent",
            registry=registry,
        )
        self._bytes = Gauge(
            "read_replica_lag_bytes",
            "Bytes of the write-ahead log that the replica had not replayed when it was last compared",
            multiprocess_mode="mostrecent",
            registry=registry,
        )
        self.show_state("none")
        self._seconds.set(0)
        self._bytes.set(0)

    def show_state(self, present: str) -> None:
        """Show one of REPLICA_STATES."""
        for state in REPLICA_STATES:
            self._state.labels(state).set(state == present)

    def show(self, database: ReadDatabase) -> None:
        """Show the result of a comparison."""
        self.show_state("usable" if database.is_readable() else "unusable")
        self._seconds.set(database.seconds_behind)
        self._bytes.set(database.lag.bytes)

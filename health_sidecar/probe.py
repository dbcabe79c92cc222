"""The queries of the sidecar: does PostgreSQL answer, what is its schema, and what are its settings?"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sql import load
from sql.errors import DatabaseUnavailable, StatementRejected
from sql.migrate import Drift, compare, discover
from sql.server_settings import NAMES, ServerSettings

HISTORY_TABLE = "health_check_runs"  # the only one that requests do not need
REQUIRED_TABLES = (
    HISTORY_TABLE,
    "stripe_events",
    "stripe_attributions",
    "stripe_objects",
    "stripe_billing",
    "stripe_failed_charges",
    "recording_tickets",
    "ticket_totals",
    "operator_acts",
    "ledger_entries",
)
MIGRATIONS_TABLE = "schema_migrations"
# With these the server accepts no new connection, and still serves those that are open.
ONLY_FOR_NEW_CONNECTIONS = {"too many connections"}
# The effect of a lock that another session has on a table; the database itself works.
SLOW_KINDS = {"timeout", "lock held"}

# Two statements each, of less than a millisecond. A pooler has some dozen sessions (PgBouncer: default_pool_size = 20).
# The probability that two connections meet different ones in all these rounds is less than one in a million.
SHARING_ROUNDS = 20


class Connection(Protocol):
    """The part of `sql.database.Database` used here."""

    async def fetch(self, sql: str, params: Mapping[str, object] | Sequence[object] = ()) -> list[tuple[Any, ...]]: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Schema:
    """What the schema check found."""

    missing_tables: tuple[str, ...]
    unreadable_tables: tuple[str, ...]
    drift: Drift

    def problems(self) -> list[str]:
        """One sentence per reason not to start, each with its remedy. Empty if the schema is as it should be."""
        found = []
        if self.missing_tables:
            # Tables that were created and are lost are not created again by migrating.
            remedy = "Run: donationd migrate" if self.drift.required else "Restore them from a backup"
            found.append(f"missing tables: {', '.join(self.missing_tables)}. {remedy}")
        if self.unreadable_tables:
            names = ", ".join(self.unreadable_tables)
            found.append(f"no permission to read: {names}. Run deploy/roles.sql again as the tables' owner")
        if self.drift.required:
            found.append(f"migrations not applied: {', '.join(self.drift.missing)}. Run: donationd migrate")
        if self.drift.edited:
            found.append(
                f"migrations changed after they were applied: {', '.join(self.drift.edited)}. "
                "Restore the released files and compare with: donationd migrate --status"
            )
        return found

    @property
    def serves(self) -> bool:
        """Whether requests can be answered from it."""
        return not {*self.missing_tables, *self.unreadable_tables} - {HISTORY_TABLE} and not (
            self.drift.required or self.drift.edited
        )


class Probe:
    """Queries one database; `open_database` creates a connection pool, at first use and at each `reconnect`."""

    def __init__(self, open_database: Callable[[], Connection], timeout_s: float) -> None:
        self._open = open_database
        self._timeout_s = timeout_s
        self._database: Connection | None = None
        self._known = discover()  # read now, because an upgrade may replace the files while this version still runs

    async def ping(self) -> None:
        """SELECT 1. Raises DatabaseUnavailable, of kind "timeout" for a server that accepts but does not answer."""
        await self.fetch(load("ping"))

    async def reconnect(self) -> None:
        """Close every connection and ping over a new one. Raises DatabaseUnavailable."""
        await self.close()
        await self.ping()

    async def shares_sessions(self) -> bool:
        """Whether open connections of this process share a session of PostgreSQL. Raises DatabaseUnavailable.

        Without a pooler, or with one that gives each client a session of its own, they never do. A pooler that shares
        sessions gives one that is idle to both in the first round; where other clients use them meanwhile, one of many
        rounds shows it.
        """
        other = self._open()
        ours, others = set[tuple[Any, ...]](), set[tuple[Any, ...]]()
        try:
            for _ in range(SHARING_ROUNDS):
                ours.update(await self.fetch(load("server_process")))
                others.update(await self._query(other, load("server_process")))
                if ours & others:
                    return True
            return False
        finally:
            await self._close(other)

    async def ping_new_connection(self) -> None:
        """SELECT 1 over a new connection: a server may serve open connections and accept no new one.

        Raises DatabaseUnavailable, but not if there are only too many connections at the moment.
        """
        other = self._open()
        try:
            await self._query(other, load("ping"))
        except DatabaseUnavailable as down:
            if down.kind not in ONLY_FOR_NEW_CONNECTIONS:
                raise
        finally:
            await self._close(other)

    async def schema(self) -> Schema:
        """Compare the database's tables and migrations with what this version needs. Raises DatabaseUnavailable."""
        names = [*REQUIRED_TABLES, MIGRATIONS_TABLE]
        rows = await self.fetch(load("check_tables"), {"names": names})
        missing = {str(name) for name, exists, _readable in rows if not exists}
        unreadable = {str(name) for name, exists, readable in rows if exists and not readable}
        if missing.issuperset(names):  # it was never migrated
            return Schema(REQUIRED_TABLES, (), compare(self._known, {}))
        drift = compare((), {})
        if MIGRATIONS_TABLE not in missing | unreadable:
            applied = {str(name): str(digest) for name, digest in await self.fetch(load("applied_migrations"))}
            drift = compare(self._known, applied)
        return Schema(
            missing_tables=tuple(name for name in names if name in missing),
            unreadable_tables=tuple(name for name in names if name in unreadable),
            drift=drift,
        )

    async def has_older_rows(self) -> bool:
        """Whether an older release derived any stored row by other rules; False if this cannot be found out now."""
        with contextlib.suppress(DatabaseUnavailable, StatementRejected):
            [(found,)] = await self.fetch(load("has_older_rows"))
            return bool(found)
        return False

    async def server_settings(self) -> ServerSettings:
        """The server's settings for sessions of this role. Raises DatabaseUnavailable."""
        return ServerSettings(await self.fetch(load("server_settings"), {"names": NAMES}))

    async def fetch(self, sql: str, params: Mapping[str, object] | Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """One statement within the ping's time limit. Raises DatabaseUnavailable."""
        if self._database is None:
            self._database = self._open()
        return await self._query(self._database, sql, params)

    async def close(self) -> None:
        """Close all connections; the next query opens new ones."""
        database, self._database = self._database, None
        if database is not None:
            await self._close(database)

    async def _query(
        self, database: Connection, sql: str, params: Mapping[str, object] | Sequence[object] = ()
    ) -> list[tuple[Any, ...]]:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await database.fetch(sql, params)
        except TimeoutError:
            raise DatabaseUnavailable("timeout") from None

    async def _close(self, database: Connection) -> None:
        # A dead server must not delay the attempt to reach it again.
        with contextlib.suppress(TimeoutError, DatabaseUnavailable):
            async with asyncio.timeout(self._timeout_s):
                await database.close()

"""A lock that one session of PostgreSQL holds: of all processes of a ledger, on any number of hosts, one has it.

The server gives it up when the holder's connection ends, and IDLE_TIMEOUT_S after the holder's last statement: a holder
that was killed is replaced at once, one whose host or network has vanished, or that was suspended, within that time.

The holder must stop what it does under the lock when `wait_lost` returns. It returns at once when the server closes the
connection, and otherwise when a check has not succeeded for so long that the server can give the lock to another
process soon. A new holder waits SETTLE_S for the former one, which may only just have noticed.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable

import psycopg2

from sql import load
from sql.connection import Connection, Connector, Params
from sql.errors import SESSION_SHARED, DatabaseUnavailable, judge
from sql.schemas import PUBLIC

IDLE_TIMEOUT_S = 15
SPARE_S = 2.0  # the holder stops its work so long before the server can give up the lock
CHECK_S = 4.0
QUERY_S = 3.0  # for a connection, and for a statement, each
SETTLE_S = 1.0

NOT_CHECKED = "it could not be checked in time"
NOT_ACQUIRED = {"shared": SESSION_SHARED, "standby": "read only"}


def boot_time_s() -> float:
    """Seconds of a clock that goes on while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class SessionLock:
    """The lock of this name and of one ledger. The URL must lead to PostgreSQL itself or to a pooler that gives each
    client a session of its own.

    Args:
        schema: that of the ledger.
        application_name: shown in pg_stat_activity.
        clock: the time in seconds.
    """

    def __init__(
        self,
        url: str,
        name: str,
        *,
        application_name: str,
        schema: str = PUBLIC,
        clock: Callable[[], float] = boot_time_s,
    ) -> None:
        self._connector = Connector(url, schema, application_name, QUERY_S, {})
        self._name = name
        self._clock = clock
        self._token = ""
        self._checked_s = 0.0  # when the statement began that last showed that the lock is held
        self._connection: Connection | None = None

    async def acquire(self) -> bool:
        """Try to take the lock, which this process does not hold. Returns whether it was free.

        Raises:
            DatabaseUnavailable: also where it leads to a standby, or to a pooler that shares sessions.
            StatementRejected
        """
        if self._connection is None or not self._connection.is_alive():
            self.close()
            self._connection = await self._connect()
        self._token = secrets.token_hex(16)
        self._checked_s = self._clock()
        given = {"name": self._name, "token": self._token, "idle_timeout": f"{IDLE_TIMEOUT_S}s"}
        result = await self._ask(self._connection, "acquire_session_lock", given)
        if result == "acquired" and await self._is_shared():
            await self._ask(self._connection, "release_session_lock", given)
            result = "shared"
        if isinstance(result, str) and result in NOT_ACQUIRED:
            raise DatabaseUnavailable(NOT_ACQUIRED[result])
        if result != "acquired":
            return False
        await asyncio.sleep(SETTLE_S)
        return True

    async def _connect(self) -> Connection:
        return await self._connector.connect(asyncio.get_running_loop().time() + QUERY_S)

    async def _ask(self, connection: Connection, query: str, params: Params) -> object:
        """The first value that a query returns; None if it returns no row."""
        try:
            async with asyncio.timeout(QUERY_S + 1):
                rows = await connection.run(load(query), params, None)
        except (OSError, psycopg2.Error) as error:
            # Not chained, because PostgreSQL's own text can repeat a value.
            raise judge(error) from None
        return rows[0][0] if rows else None

    async def _is_shared(self) -> bool:
        """Whether another connection of this process reaches the session that has the lock."""
        other = await self._connect()
        try:
            return bool(await self._ask(other, "check_session_lock", {"token": self._token}))
        finally:
            other.close()

    async def wait_lost(self) -> str:
        """Check the lock, which was acquired, until it is lost, and return why. Then it must be closed."""
        while (reason := await self._check()) is None:
            await self._wait_until_check()
        return reason

    async def _wait_until_check(self) -> None:
        """Wait for CHECK_S, or until the server sends something: it does when it ends the session."""
        assert self._connection is not None  # noqa: S101 - it is closed after that
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CHECK_S):
                await self._connection.wait_readable()

    async def _check(self) -> str | None:
        """Why the lock is lost; None if it is held."""
        assert self._connection is not None  # noqa: S101 - it is closed after that
        began_s = self._clock()
        left_s = self._checked_s + IDLE_TIMEOUT_S - SPARE_S - began_s
        if left_s <= 0:  # a reply that arrives without a wait would come before any timeout
            return NOT_CHECKED
        try:
            async with asyncio.timeout(left_s):
                is_held = await self._ask(self._connection, "check_session_lock", {"token": self._token})
        except TimeoutError:
            return NOT_CHECKED
        except DatabaseUnavailable as error:
            return error.kind
        self._checked_s = began_s
        return None if is_held else "its session is another client's"

    def close(self) -> None:
        """Give up the connection, and with it the lock, if it is held."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

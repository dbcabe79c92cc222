"""A lock that one session of PostgreSQL holds: of all processes of a ledger, on any number of hosts, one has it.

The server gives it up when the holder's connection ends, and IDLE_TIMEOUT_S after the holder's last statement: a holder
that was killed is replaced at once, one whose host or network has vanished, or that was suspended, within that time.
The holder checks the lock every CHECK_S, and must stop what it does under the lock when `wait_lost` returns. That is
earlier than the server can give the lock to another process, because the holder's times add up to less.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable

from sql import load
from sql.database import Database
from sql.errors import SESSION_SHARED, DatabaseUnavailable

IDLE_TIMEOUT_S = 15
SPARE_S = 2.0  # the holder stops its work so long before the server can give up the lock
CHECK_S = 4.0
QUERY_S = 3.0  # for a connection, and for a statement, each

NOT_ACQUIRED = {"shared": SESSION_SHARED, "standby": "read only"}


def boot_time_s() -> float:
    """Seconds of a clock that goes on while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class SessionLock:
    """The lock of this name and of the schema that the URL leads to. It must be PostgreSQL itself or a pooler that
    gives each client a session of its own.

    Args:
        application_name: shown in pg_stat_activity.
        clock, sleep: the time in seconds and the wait of the process.
    """

    def __init__(
        self,
        url: str,
        name: str,
        *,
        application_name: str,
        clock: Callable[[], float] = boot_time_s,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._url = url
        self._application_name = application_name
        self._name = name
        self._clock = clock
        self._sleep = sleep
        self._token = ""
        self._checked_s = 0.0  # when the statement began that last showed that the lock is held
        self._database = self._open()

    def _open(self) -> Database:
        return Database(
            self._url,
            pool_size=1,
            statement_timeout_s=QUERY_S,
            connect_timeout_s=QUERY_S,
            application_name=self._application_name,
        )

    async def acquire(self) -> bool:
        """Try to take the lock. Returns whether it was free.

        Raises:
            DatabaseUnavailable: also where it leads to a standby, or to a pooler that shares sessions.
        """
        self._token = secrets.token_hex(16)
        self._checked_s = self._clock()
        given = {"name": self._name, "token": self._token, "idle_timeout": f"{IDLE_TIMEOUT_S}s"}
        [(result, *_)] = await self._database.fetch(load("acquire_session_lock"), given)
        if result == "acquired" and await self._is_shared():
            await self._database.fetch(load("release_session_lock"), given)
            result = "shared"
        if result in NOT_ACQUIRED:
            raise DatabaseUnavailable(NOT_ACQUIRED[result])
        return bool(result == "acquired")

    async def _is_shared(self) -> bool:
        """Whether another connection of ours reaches the session that has the lock."""
        other = self._open()
        try:
            return await self._has_lock(other)
        finally:
            await other.close()

    async def _has_lock(self, database: Database) -> bool:
        [(is_held,)] = await database.fetch(load("check_session_lock"), {"token": self._token})
        return bool(is_held)

    async def wait_lost(self) -> str:
        """Check the lock, which was acquired, until it is lost, and return why. It may be acquired again then."""
        await self._sleep(CHECK_S)
        while (reason := await self._check()) is None:
            await self._sleep(CHECK_S)
        await self._renew()
        return reason

    async def _check(self) -> str | None:
        """Why the lock is lost; None if it is held."""
        began_s = self._clock()
        try:
            async with asyncio.timeout(self._checked_s + IDLE_TIMEOUT_S - SPARE_S - began_s):
                is_held = await self._has_lock(self._database)
        except TimeoutError:
            return "it could not be checked in time"
        except DatabaseUnavailable as error:
            return error.kind
        self._checked_s = began_s
        return None if is_held else "its session has ended"

    async def _renew(self) -> None:
        """Give up the connection, and with it the lock, if it is still held."""
        await self._database.close()
        self._database = self._open()

    async def close(self) -> None:
        """Give up the lock, if it is held, and the connection."""
        await self._database.close()

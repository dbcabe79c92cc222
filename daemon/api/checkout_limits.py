"""How many payments one address, and all together, may begin: counted in the database, for all processes and hosts.

No address is stored (SPEC 7). It becomes one of 2^20 numbers, by a hash under a key that the database does not have:
the database alone says nothing about it, and with the key too a number still stands for 4,096 addresses of IPv4. It is
deleted an hour later. Donors who share a number share its limit: while a thousand addresses are at their limit, that is
one donor of a thousand.
"""

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable
from datetime import datetime

import structlog

from daemon.runtime.http.addresses import RecentAttempts
from daemon.runtime.rate_limited_log import OnChangeLog
from sql import load
from sql.database import Database
from sql.errors import DatabaseUnavailable, StatementRejected

log = structlog.get_logger()

SOURCE_BITS = 20
ADDRESS_WINDOW_S, TOTAL_WINDOW_S = 3600.0, 60.0  # as in begin_checkout.sql
ALL_ADDRESSES = ""
FORGET_S = 60.0


class CheckoutLimits:
    """Counts the payments that are begun. Where the database cannot be asked, a process counts its own ones, and its
    limits are a part of those of all.

    Args:
        database: the primary server.
        per_address: payments that one address may begin in an hour.
        in_total: payments that may begin in a minute, for all addresses.
        secret: what the key of the hashes is derived from; the same on every host.
        processes: the API processes of this host.
        now: another time than the server's, for tests.
        clock: seconds of a monotonic clock.
    """

    def __init__(
        self,
        database: Database,
        *,
        per_address: int,
        in_total: int,
        secret: str,
        processes: int = 1,
        now: Callable[[], datetime | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._limits = {"per_address": per_address, "in_total": in_total}
        self._key = hmac.digest(secret.encode(), b"donationd checkout addresses", "sha256")
        self._now = now
        self._own_by_address = RecentAttempts(max(1, per_address // processes), ADDRESS_WINDOW_S, clock)
        self._own_total = RecentAttempts(max(1, in_total // processes), TOTAL_WINDOW_S, clock)
        self._alone = OnChangeLog("warning", "[API] The limits of checkouts hold for each process by itself")

    async def count(self, address: str) -> float:
        """Counts one more payment, unless the address, or all together, began as many as they may.

        Args:
            address: as `client_address` returns it.

        Returns:
            0 if it is counted; otherwise in how many seconds to try again.
        """
        given = {"source": self.source(address), "at": self._now(), **self._limits}
        try:
            [(is_counted, wait_s)] = await self._database.fetch(load("begin_checkout"), given)
        except (DatabaseUnavailable, StatementRejected) as error:
            self._alone.report(str(error))
            return self._count_alone(address)
        self._alone.clear()
        return 0.0 if is_counted else max(1.0, wait_s)

    def _count_alone(self, address: str) -> float:
        wait_s = max(self._own_by_address.wait_s(address), self._own_total.wait_s(ALL_ADDRESSES))
        if not wait_s:
            self._own_by_address.add(address)
            self._own_total.add(ALL_ADDRESSES)
        return wait_s

    def source(self, address: str) -> int:
        """The number that stands for an address in the database."""
        digest = hmac.digest(self._key, address.encode(), "sha256")
        return int.from_bytes(digest[:4]) >> (32 - SOURCE_BITS)

    async def forget(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Deletes what is older than the limits need, every minute, until it is cancelled."""
        while True:
            try:
                await self._database.fetch(load("forget_checkouts"), {"at": self._now()})
            except (DatabaseUnavailable, StatementRejected) as error:  # the next turn tries again
                log.debug("the sources of checkouts are not deleted", reason=str(error))
            await sleep(FORGET_S)

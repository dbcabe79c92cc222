"""How many calls begin in a second, of all processes on all hosts together: token buckets in the database."""

from collections.abc import Callable
from datetime import datetime

from sql import load
from sql.connection import Row
from sql.database import Database
from sql.errors import DatabaseUnavailable, StatementRejected


class SharedRateLimit:
    """The buckets in the table `rate_limits`, one for each name. Their time is the server's: clocks need not agree.

    Args:
        database: the primary server.
        on_failure: called with a sentence whenever the database cannot be asked.
        now: another time than the server's, for tests.
    """

    def __init__(
        self,
        database: Database,
        on_failure: Callable[[str], None] = lambda _reason: None,
        now: Callable[[], datetime | None] = lambda: None,
    ) -> None:
        self._database = database
        self._on_failure = on_failure
        self._now = now

    async def reserve(
        self, name: str, within_s: float, *, rate_per_s: float, burst: int
    ) -> tuple[bool, float, bool] | None:
        """Reserve the time at which one more call may begin, if that is less than `within_s` seconds away.

        Args:
            name: the bucket's.
            rate_per_s, burst: how many calls begin in a second, and how many of them at once.

        Returns:
            Whether it is reserved, in how many seconds the call may begin, and whether calls are paused; None if the
            database cannot be asked.
        """
        given = {"interval_s": 1 / rate_per_s, "lead_s": (burst - 1) / rate_per_s, "within_s": within_s}
        rows = await self._fetch("reserve_call", name, given)
        return (rows[0][0], rows[0][1], rows[0][2]) if rows else None

    async def pause(self, name: str, pause_s: float) -> None:
        """Let no call begin for so many seconds, in any process."""
        await self._fetch("pause_calls", name, {"pause_s": pause_s})

    async def _fetch(self, query: str, name: str, given: dict[str, float]) -> list[Row]:
        try:
            return await self._database.fetch(load(query), {"name": name, "at": self._now(), **given})
        except (DatabaseUnavailable, StatementRejected) as error:
            self._on_failure(str(error))
            return []

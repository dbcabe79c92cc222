"""Keeps the sums per day, from which charts are drawn, beside the deliveries and never on their way."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from daemon.reports import daily_sums
from sql.database import Database
from sql.errors import DatabaseUnavailable, StatementRejected

log = structlog.get_logger()

TURN_S = 10.0
PAUSE_S = 0.2  # between the passes of one turn: a long journal takes no more than half of a database core


async def keep_daily_sums(
    database: Database, time_zone: str, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> None:
    """Adds what is new in the journal, until it is cancelled. Of several processes one at a time does it.

    Args:
        database: the primary server, by connections that no delivery waits for.
    """
    while True:
        try:
            while await daily_sums.add(database, time_zone):
                await sleep(PAUSE_S)
        except (DatabaseUnavailable, StatementRejected) as error:  # the next turn tries again
            log.debug("the sums per day are not kept", reason=str(error))
        await sleep(TURN_S)

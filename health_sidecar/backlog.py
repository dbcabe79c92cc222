"""What waits for a person: unassigned donations and failed events, counted now and then for the metrics.

Never at a scrape, which must not wait for the database, and over a connection of its own, so that counting can't make
a ping late.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from health_sidecar.metrics import Metrics
from sql import load
from sql.connection import Row
from sql.errors import DatabaseUnavailable, StatementRejected

log = structlog.get_logger()

INTERVAL_S = 15.0  # about as often as Prometheus looks


async def count_backlog(
    fetch: Callable[[str], Awaitable[list[Row]]],
    metrics: Metrics,
    is_ready: Callable[[], bool],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Keeps the backlog's figures fresh, for ever; while the database is away the last ones stay."""
    while True:
        if is_ready():
            try:
                [(unassigned, failed)] = await fetch(load("count_backlog"))
                metrics.backlog(unassigned=unassigned, failed=failed)
            except (DatabaseUnavailable, StatementRejected) as error:
                log.debug("backlog not counted", reason=str(error))
        await sleep(INTERVAL_S if is_ready() else 1.0)

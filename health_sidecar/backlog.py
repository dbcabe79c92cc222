"""What waits for a person: unassigned donations, failed events and undelivered mails, counted for the metrics.

They are not counted when Prometheus reads the metrics, because that must not wait for the database, and over a
connection of their own, so that counting cannot make a ping late.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from health_sidecar.metrics import Metrics
from sql import load
from sql.connection import Row
from sql.errors import DatabaseUnavailable, StatementRejected

log = structlog.get_logger()

INTERVAL_S = 15.0  # about as often as Prometheus reads


async def count_backlog(
    fetch: Callable[[str], Awaitable[list[Row]]],
    metrics: Metrics,
    is_ready: Callable[[], bool],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Keep the figures of the backlog fresh, for ever; while the database is unavailable the last ones remain."""
    while True:
        if is_ready():
            try:
                [(unassigned, failed, undelivered, delay_s)] = await fetch(load("count_backlog"))
                metrics.backlog(unassigned=unassigned, failed=failed, undelivered=undelivered, mail_delay_s=delay_s)
            except (DatabaseUnavailable, StatementRejected) as error:
                log.debug("backlog not counted", reason=str(error))
        await sleep(INTERVAL_S if is_ready() else 1.0)

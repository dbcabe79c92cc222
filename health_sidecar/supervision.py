"""The sidecar's part in supervising: replaces a listener that hangs."""

import asyncio
import time

from health_sidecar import heartbeat
from health_sidecar.logs import ToldOnce
from health_sidecar.metrics import LISTENER, Metrics


async def watch_listener(metrics: Metrics) -> None:
    """Replace a listener that hangs, for ever."""
    watch = heartbeat.Watch()
    unwatched = ToldOnce("warning", "[Supervisor] ⚠️ No process that hangs can be found")
    while True:
        await asyncio.sleep(heartbeat.LOOK_S)
        try:
            hung = watch.look(heartbeat.find({LISTENER}), time.monotonic())
        except OSError as error:
            unwatched.met(str(error))
            continue
        unwatched.over()
        if hung:
            heartbeat.kill(hung)
            metrics.listener_hung()

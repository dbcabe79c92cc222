"""How many events the API processes answered in the last minute and hour, by outcome, from their counters.

The counters are read every few seconds and kept in memory for an hour, so that the answer needs neither the database
nor Prometheus.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping

from prometheus_client.registry import Collector

INTERVAL_S = 5.0
WINDOWS_S = {"minute": 60.0, "hour": 3600.0}

Counts = Mapping[str, int]  # by outcome


class EventRates:
    """Keeps the counters that `read` returned, for an hour."""

    def __init__(self, read: Callable[[], Counts], clock: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._clock = clock
        self._readings: deque[tuple[float, Counts]] = deque(maxlen=int(WINDOWS_S["hour"] / INTERVAL_S) + 1)

    async def run(self) -> None:
        """Read the counters every few seconds, for ever."""
        while True:
            await self.read()
            await asyncio.sleep(INTERVAL_S)

    async def read(self) -> None:
        """Read the counters now, beside the event loop: the files of many processes take a while."""
        counts = await asyncio.to_thread(self._read)
        # No counters mean at first that no API process has started yet; later, that a file could not be read just now.
        if counts or not self._readings:
            self._readings.append((self._clock(), counts))

    async def recent(self) -> dict[str, dict[str, int]]:
        """Events by outcome in the last minute and hour, and the `seconds` covered: fewer soon after a start."""
        counts = await asyncio.to_thread(self._read)
        now_s = self._clock()
        return {name: self._within(window_s, now_s, counts) for name, window_s in WINDOWS_S.items()}

    def _within(self, window_s: float, now_s: float, counts: Counts) -> dict[str, int]:
        since_s, before = next(
            (reading for reading in self._readings if reading[0] >= now_s - window_s), (now_s, counts)
        )
        # A counter can only fall if its file was removed.
        grown = {outcome: max(0, count - before.get(outcome, 0)) for outcome, count in counts.items()}
        return {"seconds": round(now_s - since_s), **grown}


def by_outcome(collector: Collector) -> Counts:
    """`webhook_events_total` by outcome."""
    counts: Counter[str] = Counter()
    for family in collector.collect():
        if family.name == "webhook_events":
            for sample in family.samples:
                counts[sample.labels["outcome"]] += int(sample.value)
    return counts

"""How many events the API processes answered in the last minute and hour, by outcome, from their counters.

The counters are looked at every few seconds and remembered for an hour, in memory, so that the answer needs neither
the database nor Prometheus.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping

from prometheus_client.registry import Collector

INTERVAL_S = 5.0
WINDOWS_S = {"minute": 60.0, "hour": 3600.0}

Counts = Mapping[str, int]  # by outcome


class Tally:
    """Remembers what `read` gave, for an hour."""

    def __init__(self, read: Callable[[], Counts], clock: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._clock = clock
        self._seen: deque[tuple[float, Counts]] = deque(maxlen=int(WINDOWS_S["hour"] / INTERVAL_S) + 1)

    async def run(self) -> None:
        """Look every few seconds, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(INTERVAL_S)

    async def look(self) -> None:
        """Look now. The files are read beside the event loop: many processes' take a while."""
        counts = await asyncio.to_thread(self._read)
        # Nothing is the beginning, before any API process; later it is a file that could not be read just now.
        if counts or not self._seen:
            self._seen.append((self._clock(), counts))

    async def lately(self) -> dict[str, dict[str, int]]:
        """Events by outcome in the last minute and hour, and the `seconds` really covered: fewer soon after a start."""
        counts = await asyncio.to_thread(self._read)
        now_s = self._clock()
        return {name: self._within(window_s, now_s, counts) for name, window_s in WINDOWS_S.items()}

    def _within(self, window_s: float, now_s: float, counts: Counts) -> dict[str, int]:
        since_s, before = next((seen for seen in self._seen if seen[0] >= now_s - window_s), (now_s, counts))
        # A counter can only fall if its file was removed under us.
        grown = {outcome: max(0, count - before.get(outcome, 0)) for outcome, count in counts.items()}
        return {"seconds": round(now_s - since_s), **grown}


def by_outcome(collector: Collector) -> Counts:
    """`webhook_events_total` by outcome, from whoever collects it."""
    counts: Counter[str] = Counter()
    for family in collector.collect():
        if family.name == "webhook_events":
            for sample in family.samples:
                counts[sample.labels["outcome"]] += int(sample.value)
    return counts

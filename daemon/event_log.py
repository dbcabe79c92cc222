"""A line per event, in the original design's wording, as long as they are few; ids only, never a donor."""

import asyncio
import time
from collections.abc import Callable

import structlog

log = structlog.get_logger()

LINES_PER_S = 10  # a person reads no faster, and a flood must not fill the disk


class EventLog:
    """Writes at most some lines a second, and then one that counts the rest.

    Args:
        clock: seconds, rising.
        later: calls a function after so many seconds; the event loop's by default.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        later: Callable[[float, Callable[[], None]], object] | None = None,
    ) -> None:
        self._clock = clock
        self._later = later
        self._second_ends_s = 0.0
        self._written = 0
        self._left_out = 0

    def write(self, level: str, wording: str, event_id: str, **values: object) -> None:
        """Writes a line, or counts it.

        Args:
            level: as structlog names it: "info", "error", …
            wording: the message, with a place for the event's id.
        """
        now_s = self._clock()
        if now_s >= self._second_ends_s:
            self._second_ends_s, self._written = now_s + 1.0, 0
        if self._written < LINES_PER_S:
            self._written += 1
            getattr(log, level)(wording.format(event_id), **values)
            return
        if self._left_out == 0:
            (self._later or asyncio.get_running_loop().call_later)(1.0, self._count_the_rest)
        self._left_out += 1

    def _count_the_rest(self) -> None:
        log.info(f"[Webhook] … and {self._left_out} more events", lines_per_second=LINES_PER_S)
        self._left_out = 0

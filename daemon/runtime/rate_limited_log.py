"""One line again and again, as long as it is not too often: ids only, never a donor.

One line for a trouble that each request meets. And one line for all that is refused, however much it is: whoever is no
Stripe must not fill the disk.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

import structlog

log = structlog.get_logger()

LINES_PER_S = 10  # a person reads no faster, and a flood must not fill the disk
TALLY_S = 10.0  # soon enough to see a wrong secret at the first event, and no more than a megabyte a day


class RateLimitedLog:
    """Writes a line at most some times a second, and then one that counts the rest. Each line has its own limit, so
    that a flood of one hides no other.

    Args:
        level: as structlog names it: "info", "error", …
        wording: the message, with a place for each name.
        rest: the message of the line that counts, with a place for the number.
        clock: seconds, rising.
        later: calls a function after so many seconds; the event loop's by default.
    """

    def __init__(
        self,
        level: str,
        wording: str,
        rest: str,
        clock: Callable[[], float] = time.monotonic,
        later: Callable[[float, Callable[[], None]], object] | None = None,
    ) -> None:
        self._level = level
        self._wording = wording
        self._rest = rest
        self._clock = clock
        self._later = later
        self._second_ends_s = 0.0
        self._written = 0
        self._left_out = 0

    def write(self, *names: str, **values: object) -> None:
        """Writes the line with `names` in it, or counts it."""
        now_s = self._clock()
        if now_s >= self._second_ends_s:
            self._second_ends_s, self._written = now_s + 1.0, 0
        if self._written < LINES_PER_S:
            self._written += 1
            getattr(log, self._level)(self._wording.format(*names), **values)
            return
        if self._left_out == 0:
            (self._later or asyncio.get_running_loop().call_later)(1.0, self._count_the_rest)
        self._left_out += 1

    def _count_the_rest(self) -> None:
        getattr(log, self._level)(self._rest.format(self._left_out), lines_per_second=LINES_PER_S)
        self._left_out = 0


class IncidentLog:
    """Tells of a trouble when it begins, with all that is known of it, and then in one line every TALLY_S seconds how
    often it was met again; when it was not, it is over. Different troubles hide no other.

    Args:
        later: as for RateLimitedLog.
    """

    def __init__(
        self, level: str, wording: str, later: Callable[[float, Callable[[], None]], object] | None = None
    ) -> None:
        self._level = level
        self._wording = wording
        self._later = later
        self._again = Counter[str]()

    def report(self, trouble: str, **values: object) -> None:
        """It was met; `trouble` is one of a few phrases, and nothing a client said."""
        if trouble in self._again:
            self._again[trouble] += 1
            return
        self._again[trouble] = 0
        getattr(log, self._level)(f"{self._wording}: {trouble}", **values)
        self._look_later(trouble)

    def _look_later(self, trouble: str) -> None:
        (self._later or asyncio.get_running_loop().call_later)(TALLY_S, partial(self._look, trouble))

    def _look(self, trouble: str) -> None:
        times = self._again.pop(trouble)
        if times:
            self._again[trouble] = 0
            getattr(log, self._level)(f"{self._wording}: {trouble}, {times} times more", seconds=round(TALLY_S))
            self._look_later(trouble)


class CountingLog:
    """Counts what is refused, and says it in one line at most every TALLY_S seconds; none while there is nothing.

    Args:
        wording: the line's message; the counts by reason follow it.
        later: as for RateLimitedLog.
    """

    def __init__(self, wording: str, later: Callable[[float, Callable[[], None]], object] | None = None) -> None:
        self._wording = wording
        self._later = later
        self._counts = Counter[str]()

    def count(self, reason: str, times: int = 1) -> None:
        """So many more were refused; `reason` is one of a few fixed phrases, and nothing a client said."""
        if not self._counts:
            (self._later or asyncio.get_running_loop().call_later)(TALLY_S, self._say)
        self._counts[reason] += times

    def _say(self) -> None:
        counts = {reason.replace(" ", "_"): count for reason, count in sorted(self._counts.items())}
        log.warning(self._wording, **counts)
        self._counts.clear()


class OnChangeLog:
    """A line about what lasts: written when it begins and when its reason changes, not each time it is met."""

    def __init__(self, level: str, text: str) -> None:
        self._level = level
        self._text = text
        self._reason: str | None = None

    def report(self, reason: str, **values: object) -> None:
        """It was met, for this reason."""
        if reason != self._reason:
            self._reason = reason
            getattr(log, self._level)(self._text, reason=reason, **values)

    def set(self, reason: str) -> None:
        """It lasts for this reason, or with an empty one it is over."""
        if reason:
            self.report(reason)
        else:
            self.clear()

    def clear(self) -> None:
        """It is over: the next time is a new one."""
        self._reason = None

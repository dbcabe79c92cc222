"""Log lines that can repeat at any rate, and what each kind does about it. Lines contain ids only, never a donor.

`RateLimitedLog` writes some lines a second and counts the others. `IncidentLog` writes a line when an incident begins
and then how often it was repeated. `CountingLog` only counts, for what clients can send at any rate: they must not be
able to fill the disk. `OnChangeLog` writes a line when a condition begins and when its reason changes.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

import structlog

log = structlog.get_logger()

LINES_PER_S = 10  # a person reads no faster, and a flood must not fill the disk
TALLY_S = 10.0  # soon enough to show a wrong secret at the first event, and at most a megabyte a day

Later = Callable[[float, Callable[[], None]], object]  # calls a function after so many seconds


def _later(delay_s: float, call: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_later(delay_s, call)


class RateLimitedLog:
    """Writes a line up to LINES_PER_S times a second, and then one line with the number of the others.

    Each object has a limit of its own, so that a flood of one line hides no other line.

    Args:
        level: as structlog names it: "info", "error", …
        wording: the message, with a place for each name.
        rest: the message of the line that counts, with a place for the number.
        clock: seconds of a monotonic clock.
        later: by default that of the event loop.
    """

    def __init__(
        self,
        level: str,
        wording: str,
        rest: str,
        clock: Callable[[], float] = time.monotonic,
        later: Later = _later,
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
        """Write the line with `names` in it, or count it."""
        if self.has_room():
            self._written += 1
            getattr(log, self._level)(self._wording.format(*names), **values)
        else:
            self.leave_out()

    def has_room(self) -> bool:
        """Whether a line would be written now; a caller that asks first can count the line with `leave_out`."""
        now_s = self._clock()
        if now_s >= self._second_ends_s:
            self._second_ends_s, self._written = now_s + 1.0, 0
        return self._written < LINES_PER_S

    def leave_out(self) -> None:
        """Count a line that is not written."""
        if self._left_out == 0:
            self._later(1.0, self._count_the_rest)
        self._left_out += 1

    def _count_the_rest(self) -> None:
        getattr(log, self._level)(self._rest.format(self._left_out), lines_per_second=LINES_PER_S)
        self._left_out = 0


class IncidentLog:
    """Writes a line with all details when an incident begins, and every TALLY_S seconds how often it was repeated.

    When TALLY_S seconds pass without it, it is over. Different incidents have lines of their own.
    """

    def __init__(self, level: str, wording: str, later: Later = _later) -> None:
        self._level = level
        self._wording = wording
        self._later = later
        self._repeated = Counter[str]()

    def report(self, incident: str, **details: object) -> None:
        """The incident has happened; it is one of a few phrases, and nothing that a client sent."""
        if incident in self._repeated:
            self._repeated[incident] += 1
            return
        self._repeated[incident] = 0
        getattr(log, self._level)(f"{self._wording}: {incident}", **details)
        self._later(TALLY_S, partial(self._tally, incident))

    def _tally(self, incident: str) -> None:
        times = self._repeated.pop(incident)
        if times:
            self._repeated[incident] = 0
            getattr(log, self._level)(f"{self._wording}: {incident}, {times} times more", seconds=round(TALLY_S))
            self._later(TALLY_S, partial(self._tally, incident))


class CountingLog:
    """Counts, and writes the counts by reason in one line at most every TALLY_S seconds; no line without a count."""

    def __init__(self, wording: str, later: Later = _later) -> None:
        self._wording = wording
        self._later = later
        self._counts = Counter[str]()

    def count(self, reason: str) -> None:
        """Count one more; `reason` is one of a few fixed phrases, and nothing that a client sent."""
        if not self._counts:
            self._later(TALLY_S, self._write)
        self._counts[reason] += 1

    def _write(self) -> None:
        counts = {reason.replace(" ", "_"): count for reason, count in sorted(self._counts.items())}
        log.warning(self._wording, **counts)
        self._counts.clear()


class OnChangeLog:
    """Writes a line about a condition when it begins and when its reason changes, not each time it is found."""

    def __init__(self, level: str, text: str) -> None:
        self._level = level
        self._text = text
        self._reason: str | None = None

    def report(self, reason: str, **values: object) -> None:
        """The condition holds, for this reason."""
        if reason != self._reason:
            self._reason = reason
            getattr(log, self._level)(self._text, reason=reason, **values)

    def clear(self) -> None:
        """The condition no longer holds; the next report is a new one."""
        self._reason = None

    def set(self, reason: str) -> None:
        """The condition holds for this reason; an empty one means that it does not hold."""
        if reason:
            self.report(reason)
        else:
            self.clear()

"""Pure: the periods of a report (SPEC 11): a text such as `2026-Q4` in a time zone, as instants.

A day begins with the first instant at which the zone's calendar shows it or a later day. So each instant belongs to
exactly one day, also where midnight does not exist, where an hour is repeated, and where a zone skipped a whole day:
that day is empty. Every longer period begins where its first day begins and ends where the next one begins.
"""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple
from zoneinfo import ZoneInfo

from daemon.reports.time_zones import load_time_zone

FIRST_YEAR, LAST_YEAR = 1970, 2999  # other years are mistakes of typing
EXAMPLES = "2026, 2026-Q4, 2026-11, 2026-W48, 2026-11-26 or 2026-10-01..2026-12-31"
DAY = timedelta(days=1)


class NoPeriod(ValueError):
    """A text that names no period; the message repeats nothing of it."""


class Days(NamedTuple):
    """Consecutive days of the calendar: the first one, and the first one after them."""

    first: date
    after: date


class Period(NamedTuple):
    """A period of a time zone: the instants from `begin`, and before `end`, both in Unix seconds (UTC)."""

    text: str
    time_zone: str
    begin: int
    end: int

    @classmethod
    def parse(cls, text: str, time_zone: str) -> "Period":
        """Reads a text such as `2026-Q4`.

        Args:
            time_zone: the zone's IANA name.

        Raises:
            NoPeriod: the text names none.
            UnknownTimeZone: the zone does not exist.
        """
        text = text.upper()
        return cls._of(text, _days(text), time_zone)

    @classmethod
    def _of(cls, text: str, days: Days, time_zone: str) -> "Period":
        zone = load_time_zone(time_zone)
        return cls(text, time_zone, day_begins(days.first, zone), day_begins(days.after, zone))


class Unit(StrEnum):
    """What a series of periods consists of."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"


def series(unit: Unit, begin: int, end: int, time_zone: str) -> Iterator[Period]:
    """The consecutive periods of a unit that contain the instants from `begin` to before `end`, in Unix seconds.

    The first one may begin earlier, and the last one end later. A day that the zone skipped is not among them.
    Raises UnknownTimeZone.
    """
    zone = load_time_zone(time_zone)
    name, days_of = UNITS[unit]
    days = days_of(_date_of(begin, zone))
    while (period := Period._of(name(days.first), days, time_zone)).begin < end:
        if max(begin, period.begin) < period.end:
            yield period
        days = days_of(days.after)


def day_begins(day: date, zone: ZoneInfo) -> int:
    """The first instant, in Unix seconds, at which the zone's calendar shows this day or a later one."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=zone)
    # Of a midnight that is repeated, `fold=0` is the first. Where the clock was put forward over midnight, that was at
    # the instant of `fold=0` or earlier (America/Toronto, 1919-03-30 23:30), and not before that of `fold=1`.
    late, early = (int(midnight.replace(fold=fold).timestamp()) for fold in (0, 1))
    while early < late:
        middle = (early + late) // 2
        if _date_of(middle, zone) < day:
            early = middle + 1
        else:
            late = middle
    return late


def _date_of(instant: int, zone: ZoneInfo) -> date:
    return datetime.fromtimestamp(instant, UTC).astimezone(zone).date()


def _days(text: str) -> Days:
    for pattern, read in FORMS.items():
        if found := re.fullmatch(pattern, text, re.ASCII):
            try:
                days = read(*found.groups())
            except (ValueError, OverflowError):
                raise NoPeriod(f"there is no such date; write {EXAMPLES}") from None
            if not all(FIRST_YEAR <= int(year) <= LAST_YEAR for year in re.findall(r"\d{4}", text)):
                raise NoPeriod(f"a period is within the years {FIRST_YEAR} to {LAST_YEAR}")
            if days.after <= days.first:
                raise NoPeriod("the last day of a period is not before the first one")
            return days
    raise NoPeriod(f"a period is written like {EXAMPLES}")


def _year(year: str) -> Days:
    return Days(date(int(year), 1, 1), date(int(year) + 1, 1, 1))


def _quarter(year: str, quarter: str) -> Days:
    return _months(int(year), 3 * int(quarter) - 2, 3)


def _month(year: str, month: str) -> Days:
    return _months(int(year), int(month), 1)


def _months(year: int, month: int, count: int) -> Days:
    years, months = divmod(month - 1 + count, 12)
    return Days(date(year, month, 1), date(year + years, months + 1, 1))


def _week(year: str, week: str) -> Days:
    """A week of ISO 8601: it begins on Monday, and the first one contains the year's first Thursday."""
    return _from(date.fromisocalendar(int(year), int(week), 1), 7)


def _day(day: str) -> Days:
    return _from(date.fromisoformat(day), 1)


def _range(first: str, last: str) -> Days:
    return Days(date.fromisoformat(first), date.fromisoformat(last) + DAY)


def _from(first: date, days: int) -> Days:
    return Days(first, first + days * DAY)


FORMS: dict[str, Callable[..., Days]] = {
    r"(\d{4})": _year,
    r"(\d{4})-Q([1-4])": _quarter,
    r"(\d{4})-(\d\d)": _month,
    r"(\d{4})-W(\d\d)": _week,
    r"(\d{4}-\d\d-\d\d)": _day,
    r"(\d{4}-\d\d-\d\d)\.\.(\d{4}-\d\d-\d\d)": _range,
}


def _week_name(monday: date) -> str:
    year, week, _ = monday.isocalendar()
    return f"{year}-W{week:02}"


# How a period of a unit is written, by its first day, and the days of the one that contains a day.
UNITS: dict[Unit, tuple[Callable[[date], str], Callable[[date], Days]]] = {
    Unit.DAY: (date.isoformat, lambda day: _from(day, 1)),
    Unit.WEEK: (_week_name, lambda day: _from(day - day.weekday() * DAY, 7)),
    Unit.MONTH: (lambda day: f"{day:%Y-%m}", lambda day: _months(day.year, day.month, 1)),
}

"""The head of a report: what it was made from, so that the same report can be made again."""

from datetime import UTC, datetime
from importlib.metadata import version
from typing import NamedTuple

from daemon.reports import time_zones
from daemon.reports.periods import Period
from daemon.reports.presentation import Cell


class Origin(NamedTuple):
    """The release and the rules of time zones that a report was made with; with others it may differ."""

    release: str = version("donationd")
    tzdata: str = time_zones.VERSION


HERE = Origin()
JOURNAL = "journal"  # added up from entries, which never change
DONATIONS = "donations"  # added up from the donations as they are


def head(name: str, source: str, period: Period | None, time_zone: str, origin: Origin = HERE) -> dict[str, Cell]:
    """What the head of every report begins with.

    Args:
        source: JOURNAL or DONATIONS.
        period: None for all times.
    """
    return {
        "report": name,
        "release": origin.release,
        "tzdata": origin.tzdata,
        "source": source,
        "timeZone": time_zone,
        "period": period.text if period else None,
        "begin": time(period.begin) if period else None,
        "end": time(period.end) if period else None,
    }


def time(unix_s: int) -> datetime:
    """An instant in Unix seconds, as reports show it."""
    return datetime.fromtimestamp(unix_s, UTC)

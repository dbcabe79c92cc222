"""Time zones by their IANA names, from the locked package `tzdata` only.

A machine's own files (/usr/share/zoneinfo) differ from host to host and change with its updates. A report must be the
same on every host, so they are not read, and a report's head states `VERSION`.
"""

import difflib
from functools import cache
from importlib import resources
from zoneinfo import ZoneInfo

import tzdata

VERSION = tzdata.IANA_VERSION  # such as 2026f


class UnknownTimeZone(ValueError):
    """The package has no time zone of this name; the message contains known names only."""


@cache
def time_zone_names() -> tuple[str, ...]:
    """Every name that can be used, in the package's order."""
    return tuple(resources.files(tzdata).joinpath("zones").read_text("ascii").split())


@cache
def load_time_zone(name: str) -> ZoneInfo:
    """The time zone of a name such as `Europe/Berlin`. Raises UnknownTimeZone."""
    if name not in time_zone_names():
        raise UnknownTimeZone(_problem(name))
    with resources.files(tzdata).joinpath("zoneinfo", *name.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, key=name)


def _problem(name: str) -> str:
    like = difflib.get_close_matches(name, time_zone_names(), n=1, cutoff=0.8)
    example = f"did you mean {like[0]}?" if like else "use a name such as Europe/Berlin"
    return f"tzdata {VERSION} has no time zone of this name; {example}"

"""Times as whole numbers in the cursors of lists: a client may have changed them, so any number becomes a time."""

from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
LAST_US = (datetime.max.replace(tzinfo=UTC) - EPOCH) // MICROSECOND


def microseconds(time: datetime) -> int:
    """A time in Unix microseconds."""
    return (time - EPOCH) // MICROSECOND


def at_microsecond(number: int) -> datetime:
    """The time of a number of Unix microseconds, in UTC; the last possible time for a greater one."""
    return EPOCH + min(number, LAST_US) * MICROSECOND


def at_second(number: int) -> datetime:
    """The time of a number of Unix seconds, in UTC; the last possible time for a greater one."""
    return at_microsecond(number * 1_000_000)

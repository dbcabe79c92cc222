"""What moved lately, for charts: from sums per day that are kept beside the journal, so that a chart costs the same
however long the journal is.

The days are those of PostgreSQL's time zones. `income.py` adds up the entries themselves, as of any moment.
"""

from collections import defaultdict
from datetime import date, datetime, timedelta
from typing import NamedTuple

from daemon.reports.entry_sums import FIGURE, Figures
from daemon.reports.periods import Unit
from sql import load
from sql.database import Database

ADDED_AT_ONCE = 20_000  # entries that one statement adds: some tenths of a second
ALL_TICKETS = "*"
SHOWN = {Unit.DAY: 31, Unit.WEEK: 26, Unit.MONTH: 24}  # periods of a chart


class SumRow(NamedTuple):
    """A row of read_daily_sums.sql; one without a currency has no sum."""

    seq: int
    added_at: datetime
    begin: date | None
    currency: str | None
    kind: str | None
    amount_minor: int | None


class RecentIncome(NamedTuple):
    """What moved in each of the last periods, the oldest first, by currency: the most used one first.

    The entries up to `seq` count, which were added at `added_at`; both are None before the first pass of `add`.
    """

    begins: list[date]
    by_currency: dict[str, list[Figures]]
    seq: int | None
    added_at: datetime | None


async def add(database: Database, time_zone: str) -> bool:
    """One pass: adds the journal's next entries to the sums of a time zone. Returns whether there may be more."""
    await database.fetch(load("begin_daily_sums"), {"time_zone": time_zone})
    rows = await database.fetch(load("add_daily_sums"), {"time_zone": time_zone, "count": ADDED_AT_ONCE})
    return rows == [(ADDED_AT_ONCE,)]


async def recent(
    database: Database, unit: Unit, time_zone: str, today: date, ticket: str | None = None
) -> RecentIncome:
    """What moved in the last days, weeks or months until today, for a ticket or, without one, for all."""
    begins = last_periods(unit, today)
    params = {"unit": unit.value, "time_zone": time_zone, "ticket": ticket or ALL_TICKETS, "since": begins[0]}
    rows = list(map(SumRow._make, await database.fetch(load("read_daily_sums"), params)))
    found: defaultdict[str, dict[date, Figures]] = defaultdict(dict)
    for row in rows:
        if row.currency is not None and row.begin is not None and row.kind is not None:
            before = found[row.currency].get(row.begin, Figures())
            found[row.currency][row.begin] = before.plus(Figures(**{FIGURE[row.kind]: row.amount_minor or 0}))
    used = sorted(found, key=lambda currency: -len(found[currency]))
    by_currency = {currency: [found[currency].get(begin, Figures()) for begin in begins] for currency in used}
    return RecentIncome(
        begins, by_currency, rows[0].seq if rows else None, rows[0].added_at if rows else None
    )  # fmt: skip


def last_periods(unit: Unit, today: date) -> list[date]:
    """Pure: the first days of the last periods until today, the oldest first; weeks begin on Monday."""
    match unit:
        case Unit.DAY:
            return [today - timedelta(days=back) for back in reversed(range(SHOWN[unit]))]
        case Unit.WEEK:
            monday = today - timedelta(days=today.weekday())
            return [monday - timedelta(weeks=back) for back in reversed(range(SHOWN[unit]))]
        case Unit.MONTH:
            last = today.year * 12 + today.month - 1
            return [date(month // 12, month % 12 + 1, 1) for month in range(last - SHOWN[unit] + 1, last + 1)]

"""What the journal's entries add up to by their `effective_at`: as of an entry, in parts, at any later time the same.

Entries are never changed, so the entries up to a `seq` are the same for ever, and need not be read at once: each
statement reads some of them, so that none takes long, however long the journal is.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from daemon.ledger.reader import Moment
from daemon.reports.periods import Period
from sql import load
from sql.database import Database

SUMMED = 100_000  # entries that one statement adds up: some tenths of a second
LISTED = 5_000  # entries that one statement returns: some megabytes
FIGURE = {"payment": "payments", "refund": "refunds", "dispute": "disputes"}  # the figure that a kind of entry adds to

Progress = Callable[[int, int], None]  # called with how many entries have been read, and how many there are


def no_progress(_done: int, _total: int) -> None:
    """For a caller without a person who waits."""


class MomentInFuture(Exception):
    """An entry that does not exist yet, or a time that has not come; the message is for the person who asks."""


class JournalMoment(NamedTuple):
    """A row of journal_moment.sql: the last entry of a moment, the journal's own last entry, the database's clock, and
    the last row of balance_transactions of the moment.

    `recorded_at` is None before the first entry; `next_recorded_at` is that of the entry after it, if there is one.
    """

    seq: int
    recorded_at: datetime | None
    next_recorded_at: datetime | None
    last_seq: int
    now: datetime
    fees_seq: int


async def find_moment(database: Database, moment: Moment | None) -> JournalMoment:
    """The entry that a moment ends with; without a moment the journal's last one.

    The ledger's lock, and that of fees, are taken for an instant: what is recorded before that is committed, and what
    is recorded later has a later time. So the answer for an entry, and for a time that has passed, never changes.

    Raises:
        MomentInFuture: it has not come yet.
    """
    seq, time, fees = moment or Moment(None, None)
    sql = ";\n".join(map(load, ("lock_ledger", "lock_balance", "journal_moment")))
    found = JournalMoment._make((await database.fetch(sql, {"seq": seq, "time": time, "fees": fees}))[0])
    if seq is not None and seq > found.last_seq:
        raise MomentInFuture(f"there is no entry {seq} yet; the last one is {found.last_seq}")
    if fees is not None and fees > found.fees_seq:
        raise MomentInFuture(f"there is no fee {fees} yet; the last one is {found.fees_seq}")
    if time is not None and time >= found.now:
        raise MomentInFuture("this time has not come yet")
    return found


async def find_span(database: Database, seq: int, time_zone: str) -> Period:
    """From the first to the last time at which money of an entry up to a seq moved; empty before the first entry."""
    [(first, last)] = await database.fetch(load("span_of_entries"), {"seq": seq})
    return Period("", time_zone, 0, 0) if first is None else Period("", time_zone, first, last + 1)


class Figures(NamedTuple):
    """What entries add up to, in minor units of one currency."""

    payments: int = 0
    refunds: int = 0
    disputes: int = 0

    @property
    def net(self) -> int:
        """net = payments - refunds - disputes (SPEC 3)."""
        return self.payments - self.refunds - self.disputes

    def plus(self, other: "Figures") -> "Figures":
        """The sum of both."""
        return Figures(self.payments + other.payments, self.refunds + other.refunds, self.disputes + other.disputes)


class SumKey(NamedTuple):
    """What entries are added up by: '' is no ticket and no currency, as in the journal; None where all tickets are
    added up."""

    period: int
    currency: str
    ticket: str | None


class Entries(NamedTuple):
    """The entries with `after` < seq <= `seq` whose money moved in a period.

    Args:
        ticket: None for those of all tickets.
    """

    period: Period
    seq: int
    after: int = 0
    ticket: str | None = None


class SumRow(NamedTuple):
    """A row of sum_entries.sql."""

    period: int
    currency: str
    ticket: str | None
    kind: str
    amount_minor: int


class EntryRow(NamedTuple):
    """A row of entries_of_period.sql."""

    seq: int
    recorded_at: datetime
    effective_at: datetime
    donation_id: str
    ticket_id: str
    currency: str
    kind: str
    object_id: str
    amount_minor: int
    cause: str


async def sum_by_ticket(database: Database, entries: Entries, progress: Progress) -> dict[SumKey, Figures]:
    """The sums per currency and ticket, in one period; without those that add up to nothing."""
    return await _sums(database, entries, [entries.period.begin], by_ticket=True, progress=progress)


async def sum_by_period(
    database: Database, entries: Entries, periods: Sequence[Period], progress: Progress
) -> dict[SumKey, Figures]:
    """The sums per currency in each of some consecutive periods, by their numbers in the sequence; without those that
    add up to nothing.
    """
    begins = [period.begin for period in periods]
    return await _sums(database, entries, begins, by_ticket=False, progress=progress)


async def _sums(
    database: Database, entries: Entries, begins: list[int], *, by_ticket: bool, progress: Progress
) -> dict[SumKey, Figures]:
    found: defaultdict[SumKey, Figures] = defaultdict(Figures)
    for after, seq in parts(entries.after, entries.seq, SUMMED):
        part = entries._replace(after=after, seq=seq)
        params = _params(part) | {"ticket": entries.ticket, "begins": begins, "by_ticket": by_ticket}
        for row in map(SumRow._make, await database.fetch(load("sum_entries"), params)):
            key = SumKey(row.period, row.currency, row.ticket)
            found[key] = found[key].plus(Figures(**{FIGURE[row.kind]: row.amount_minor}))
        progress(part.seq - entries.after, entries.seq - entries.after)
    return {key: figures for key, figures in sorted(found.items()) if any(figures)}


async def read_entries(database: Database, entries: Entries) -> AsyncIterator[EntryRow]:
    """The entries themselves, in their order; of all tickets."""
    for after, seq in parts(entries.after, entries.seq, LISTED):
        part = entries._replace(after=after, seq=seq)
        for row in await database.fetch(load("entries_of_period"), _params(part)):
            yield EntryRow._make(row)


def parts(after: int, seq: int, size: int) -> Iterator[tuple[int, int]]:
    """The numbers after one and up to another, in parts of at most `size`, each written in the same way."""
    for first in range(after, seq, size):
        yield first, min(first + size, seq)


def _params(part: Entries) -> dict[str, object]:
    return {"after": part.after, "seq": part.seq, "begin": part.period.begin, "end": part.period.end}

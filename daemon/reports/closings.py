"""Closed reports: a period as it was filed, the same period now, and every entry between them (SPEC 11)."""

import hashlib
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import NamedTuple

from daemon.ledger import audit
from daemon.ledger.reader import Moment
from daemon.reports.entry_sums import (
    Entries,
    Figures,
    JournalMoment,
    Progress,
    SumKey,
    find_moment,
    no_progress,
    read_entries,
    sum_by_ticket,
)
from daemon.reports.fees import CHANGED_COLUMNS, FeeSums, changed_rows, difference, fee_tables, sum_fees
from daemon.reports.head import HERE, JOURNAL, Origin, head
from daemon.reports.income import FIGURES, Sums, as_of, income_report, ticket_rows, total_rows
from daemon.reports.periods import Period
from daemon.reports.presentation import Amount, Cell, Report, Row, Table, as_json, each
from sql import load
from sql.database import Database


class CannotClose(Exception):
    """The period's report could not be final yet; the message is for the person who asks."""


class NotClosed(Exception):
    """There is no such closed report; the message is for the person who asks."""


class Closing(NamedTuple):
    """One version of a closed report: a row of closed_reports.sql. `begin` and `end` are in Unix seconds."""

    period: str
    time_zone: str
    version: int
    begin: int
    end: int
    seq: int
    journal_seq: int
    sha256: str
    release: str
    tzdata: str
    closed_at: datetime
    closed_by: str
    fees_seq: int | None  # None: closed by a release that did not count fees

    @property
    def closed_period(self) -> Period:
        """The instants that were reported on, whatever the time zone's rules are now."""
        return Period(self.period, self.time_zone, self.begin, self.end)


async def close(
    database: Database, period: Period, actor: str, *, moment: Moment | None = None, progress: Progress = no_progress
) -> Closing:
    """`report close`: keeps what the report of a period's income is made from, and its hash. Closing it again makes a
    new version.

    Raises:
        CannotClose: the period had not ended at the moment.
        MomentInFuture: the moment has not come yet.
    """
    found = await find_moment(database, moment)
    _check_ended(period, found)
    entries = Entries(period, found.seq)
    sums = await sum_by_ticket(database, entries, progress)
    fees = await sum_fees(database, entries, found.fees_seq)
    values = {
        "period": period.text,
        "time_zone": period.time_zone,
        "begin": period.begin,
        "end": period.end,
        "seq": found.seq,
        "fees_seq": fees.seq,
        "sha256": await _sha256(income_report(period, found, sums, fees, origin=HERE)),
        "release": HERE.release,
        "tzdata": HERE.tzdata,
        "actor": actor,
    }
    [row] = await database.fetch(f"{load('lock_ledger')};\n{load('close_report')}", values)
    await audit.chain(database)
    return Closing._make(row)


async def closings(database: Database, period: str | None = None) -> list[Closing]:
    """All versions of all closed reports, or of those of one period, in the order in which they were closed."""
    return list(map(Closing._make, await database.fetch(load("closed_reports"), {"period": period})))


async def restated(
    database: Database,
    period: Period,
    *,
    version: int | None = None,
    moment: Moment | None = None,
    progress: Progress = no_progress,
) -> Report:
    """`report restated`: a closed period as it was filed, as it is as of a moment, and every entry between them.

    Args:
        version: of the closed report. Without it the newest one; if a moment is given, of those that were closed until
            that time, or before that entry was recorded, so that a version that is added later makes no difference.

    Raises:
        NotClosed: there is no such version, or it was closed after the moment.
        MomentInFuture: the moment has not come yet.
    """
    found = await find_moment(database, moment)
    closing = _chosen(await closings(database, period.text), period, version, moment)
    _check_closed(closing, found)
    before = Entries(closing.closed_period, closing.seq)
    filed = await sum_by_ticket(database, before, progress)
    filed_fees = await sum_fees(database, before, closing.fees_seq or 0)
    later = Entries(closing.closed_period, found.seq, after=closing.seq)
    changes = await sum_by_ticket(database, later, progress)
    fees = await sum_fees(database, later, found.fees_seq)
    return Report(
        {
            **head("restated", JOURNAL, closing.closed_period, closing.time_zone),
            **as_of(found),
            "feesSeq": fees.seq,
            **_filed_head(closing),
            "filedConfirmed": await _filed_sha256(database, closing, filed, filed_fees) == closing.sha256,
            "sameInstants": closing.closed_period == period,
        },
        [
            *_figures("filed", filed),
            *_figures("now", _added(filed, changes)),
            *_figures("difference", changes),
            Table("entries", ENTRY_COLUMNS, _entry_rows(database, later)),
            *fee_tables(filed_fees, "filed"),
            *fee_tables(fees, "now"),
            *fee_tables(difference(filed_fees, fees), "difference"),
            Table("feeEntries", CHANGED_COLUMNS, changed_rows(database, later, filed_fees.seq, fees.seq)),
        ],
    )


def _check_closed(closing: Closing, found: JournalMoment) -> None:
    """Raises NotClosed if the report was closed after the moment."""
    if found.seq < closing.seq:
        raise NotClosed(f"version {closing.version} was closed at entry {closing.seq}, after entry {found.seq}")
    if found.fees_seq < (closing.fees_seq or 0):
        raise NotClosed(f"version {closing.version} was closed at fee {closing.fees_seq}, after fee {found.fees_seq}")


def _filed_head(closing: Closing) -> dict[str, Cell]:
    return {
        "version": closing.version,
        "closedAt": closing.closed_at,
        "closedBy": closing.closed_by,
        "filedSeq": closing.seq,
        "filedFeesSeq": closing.fees_seq,
        "filedRelease": closing.release,
        "filedTzdata": closing.tzdata,
        "filedSha256": closing.sha256,
    }


async def _filed_sha256(database: Database, closing: Closing, sums: Sums, fees: FeeSums) -> str:
    """The hash of the report as it was filed, made once more from today's journal."""
    moment = await find_moment(database, Moment(closing.seq, None))
    counted_fees = None if closing.fees_seq is None else fees
    origin = Origin(closing.release, closing.tzdata)
    return await _sha256(income_report(closing.closed_period, moment, sums, counted_fees, origin=origin))


def _check_ended(period: Period, moment: JournalMoment) -> None:
    """Raises CannotClose if money of the period could still move after the moment."""
    if moment.now.timestamp() < period.end:
        raise CannotClose(f"{period.text} has not ended yet in {period.time_zone}")
    if moment.next_recorded_at and moment.next_recorded_at.timestamp() < period.end:
        raise CannotClose(
            f"{period.text} had not ended yet in {period.time_zone}: entry {moment.seq + 1} was recorded before its end"
        )


def _chosen(found: Sequence[Closing], period: Period, version: int | None, moment: Moment | None) -> Closing:
    """The version that is wanted, of those of the period. Raises NotClosed."""
    if not found:
        raise NotClosed(f"{period.text} has not been closed")
    here = [each for each in found if each.time_zone == period.time_zone]
    if not here:
        zones = ", ".join(sorted({each.time_zone for each in found}))
        raise NotClosed(f"{period.text} has not been closed in the time zone {period.time_zone}, but in: {zones}")
    if version is not None:
        here = [each for each in here if each.version == version]
        if not here:
            raise NotClosed(f"{period.text} in {period.time_zone} has no version {version}")
    elif moment is not None:
        here = [each for each in here if _was_closed(each, moment)]
        if not here:
            when = "at this time" if moment.seq is None else f"before entry {moment.seq} was recorded"
            raise NotClosed(
                f"{period.text} in {period.time_zone} had not been closed {when}: give a later moment, or a version"
            )
    return here[-1]


def _was_closed(closing: Closing, moment: Moment) -> bool:
    """Whether a period had been closed at a moment; the answer never changes once the moment has passed."""
    if moment.time is not None:
        return closing.closed_at <= moment.time
    return moment.seq is None or closing.journal_seq < moment.seq


def _figures(name: str, sums: Sums) -> tuple[Table, Table]:
    """The two tables of the same sums."""
    return (
        Table(f"{name}Totals", ("currency", *FIGURES), each(total_rows(sums))),
        Table(f"{name}Tickets", ("currency", "ticket", *FIGURES), each(ticket_rows(sums))),
    )


def _added(one: Sums, other: Sums) -> Sums:
    """Both together, without what adds up to nothing."""
    found: defaultdict[SumKey, Figures] = defaultdict(Figures, one)
    for key, figures in other.items():
        found[key] = found[key].plus(figures)
    return {key: figures for key, figures in found.items() if any(figures)}


# `entry` is its seq; the head has a `seq` too, and each row of CSV has both.
ENTRY_COLUMNS = (
    *("entry", "entryRecordedAt", "effectiveAt", "donation", "ticket", "kind", "object", "currency", "amount", "cause"),
)


async def _entry_rows(database: Database, entries: Entries) -> AsyncIterator[Row]:
    """A row per entry; `amount` is what it adds to payments, refunds or disputes."""
    async for entry in read_entries(database, entries):
        amount = Amount(entry.amount_minor, entry.currency)
        yield (
            *(entry.seq, entry.recorded_at, entry.effective_at, entry.donation_id, entry.ticket_id or None),
            *(entry.kind, entry.object_id, entry.currency or None, amount, entry.cause),
        )


async def _sha256(report: Report) -> str:
    """The hash of a report's JSON, in hexadecimal digits."""
    digest = hashlib.sha256()
    async for part in as_json(report):
        digest.update(part.encode())
    return digest.hexdigest()

"""The income of a period (SPEC 11): payments, refunds and disputes from the journal, and Stripe's fees, by the time
when money moved.

As of the same entry, a report of the same release is the same for ever, byte for byte.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from daemon.ledger.reader import Moment
from daemon.reports.entry_sums import (
    Entries,
    Figures,
    JournalMoment,
    Progress,
    SumKey,
    find_moment,
    find_span,
    no_progress,
    sum_by_period,
    sum_by_ticket,
)
from daemon.reports.fees import FeeSums, fee_tables, sum_fees
from daemon.reports.head import HERE, JOURNAL, Origin, head, time
from daemon.reports.periods import Period, Unit, series
from daemon.reports.presentation import Amount, Cell, Report, Row, Table, each
from daemon.reports.tickets import check_ticket
from sql.database import Database

FIGURES = ("payments", "refunds", "disputes", "net")
MAX_PERIODS = 5_000  # of a series: thirteen years of days

Sums = Mapping[SumKey, Figures]


class TooManyPeriods(ValueError):
    """A series of more than MAX_PERIODS; the message says what to do."""


async def income(
    database: Database,
    period: Period,
    *,
    moment: Moment | None = None,
    ticket: str | None = None,
    progress: Progress = no_progress,
) -> Report:
    """`report income`: what moved in a period, per currency and ticket, as of a moment.

    Raises:
        MomentInFuture: the moment has not come yet.
        UnknownTicket: nothing has this ticket.
    """
    await check_ticket(database, ticket)
    found = await find_moment(database, moment)
    entries = Entries(period, found.seq, ticket=ticket)
    sums = await sum_by_ticket(database, entries, progress)
    return income_report(period, found, sums, await sum_fees(database, entries, found.fees_seq), ticket=ticket)


def income_report(
    period: Period,
    moment: JournalMoment,
    sums: Sums,
    fees: FeeSums | None,
    *,
    ticket: str | None = None,
    origin: Origin = HERE,
) -> Report:
    """Pure: the report of sums that are known; with None as fees in the form that it had before fees were counted."""
    until = as_of(moment) if fees is None else {**as_of(moment), "feesSeq": fees.seq}
    return Report(
        {**head("income", JOURNAL, period, period.time_zone, origin), **until, "onlyTicket": ticket},
        [
            Table("totals", ("currency", *FIGURES), each(total_rows(sums))),
            Table("tickets", ("currency", "ticket", *FIGURES), each(ticket_rows(sums))),
            *(fee_tables(fees) if fees is not None else ()),
        ],
    )


async def income_series(
    database: Database,
    unit: Unit,
    time_zone: str,
    period: Period | None = None,
    *,
    moment: Moment | None = None,
    ticket: str | None = None,
    progress: Progress = no_progress,
) -> Report:
    """`report series`: what moved in each day, week or month of a period, or of all times, as of a moment.

    Raises:
        MomentInFuture, UnknownTicket: as `income`.
        TooManyPeriods: it would be too long.
    """
    await check_ticket(database, ticket)
    found = await find_moment(database, moment)
    whole = period or await find_span(database, found.seq, time_zone)
    periods = _periods(unit, whole)
    sums = await sum_by_period(database, Entries(whole, found.seq, ticket=ticket), periods, progress)
    return Report(
        {**head("series", JOURNAL, period, time_zone), **as_of(found), "by": unit.value, "onlyTicket": ticket},
        [
            Table("totals", ("currency", *FIGURES), each(total_rows(sums))),
            Table(
                "series", (unit.value, "begin", "end", "currency", *FIGURES), each(_series_rows(whole, periods, sums))
            ),
        ],
    )


def as_of(moment: JournalMoment) -> dict[str, Cell]:
    """The part of a head that names the last entry that counts."""
    return {"seq": moment.seq, "recordedAt": moment.recorded_at}


def total_rows(sums: Sums) -> list[Row]:
    """A row per currency; of zeros where what moved for several tickets, or at several times, adds up to nothing."""
    totals: defaultdict[str, Figures] = defaultdict(Figures)
    for key, figures in sums.items():
        totals[key.currency] = totals[key.currency].plus(figures)
    return [(currency or None, *amounts(figures, currency)) for currency, figures in sorted(totals.items())]


def ticket_rows(sums: Sums) -> list[Row]:
    """A row per currency and ticket."""
    return [
        (key.currency or None, key.ticket or None, *amounts(figures, key.currency))
        for key, figures in sorted(sums.items())
    ]


def amounts(figures: Figures, currency: str) -> Iterable[Amount]:
    """The four figures of a row."""
    return (Amount(minor, currency) for minor in (*figures, figures.net))


def _periods(unit: Unit, whole: Period) -> list[Period]:
    """The periods of a series; the first and the last one are cut at the ends of the whole."""
    found: list[Period] = []
    for period in series(unit, whole.begin, whole.end, whole.time_zone):
        if len(found) == MAX_PERIODS:
            raise TooManyPeriods(
                f"the series has more than {MAX_PERIODS} rows: choose a shorter period or a longer unit"
            )
        found.append(period)
    return found


def _series_rows(whole: Period, periods: Iterable[Period], sums: Sums) -> list[Row]:
    """A row per period and currency, also where nothing moved."""
    currencies = sorted({key.currency for key in sums})
    return [
        (
            period.text,
            time(max(period.begin, whole.begin)),
            time(min(period.end, whole.end)),
            currency or None,
            *amounts(sums.get(SumKey(number, currency, None), Figures()), currency),
        )
        for number, period in enumerate(periods)
        for currency in currencies
    ]

"""Statistics of the paid donations as they are now (SPEC 11): each report is one statement, so one snapshot.

A donation counts in the period in which it was paid first, with its amounts as they are now. The journal, which knows
what was known earlier, is what income.py adds up.
"""

from datetime import datetime
from fractions import Fraction
from math import floor
from typing import NamedTuple, TypeVar

from daemon.ledger import money
from daemon.reports.head import DONATIONS, head
from daemon.reports.periods import Period
from daemon.reports.presentation import Amount, Cell, Report, Row, Table, each
from daemon.reports.tickets import check_ticket
from sql import load
from sql.database import Database

R = TypeVar("R", "SummaryRow", "TicketRow", "DonorRow")

SUMS = ("paid", "refunded", "disputed", "net")


class Selection(NamedTuple):
    """Which donations: those paid in a period, None for all times, for a ticket, None for all."""

    time_zone: str
    period: Period | None = None
    ticket: str | None = None


class SummaryRow(NamedTuple):
    """A row of summarize_donations.sql; one without a currency has no figures of one."""

    ledger_seq: int
    donors: int
    new_donors: int
    repeat_donors: int
    without_hash: int
    currency: str | None
    donations: int
    known: int
    paid_minor: int
    refunded_minor: int
    disputed_minor: int
    lower_median_minor: int | None
    upper_median_minor: int | None
    largest_minor: int | None


class TicketRow(NamedTuple):
    """A row of rank_tickets.sql; one without a currency has nothing else."""

    ledger_seq: int
    currency: str | None
    ticket: str
    donations: int
    paid_minor: int
    refunded_minor: int
    disputed_minor: int
    last_paid_at: datetime


class DonorRow(NamedTuple):
    """A row of rank_donors.sql; one without a currency has nothing else."""

    ledger_seq: int
    currency: str | None
    donors: int
    repeat_donors: int
    hash: str
    donations: int
    paid_minor: int
    refunded_minor: int
    disputed_minor: int
    first_paid_at: datetime
    last_paid_at: datetime


async def summary(database: Database, selection: Selection) -> Report:
    """`report summary`: number, sums, average, median and largest amount per currency, and the donors.

    Raises:
        UnknownTicket: nothing has this ticket.
    """
    await check_ticket(database, selection.ticket)
    rows = list(map(SummaryRow._make, await database.fetch(load("summarize_donations"), _params(selection))))
    averages = ("average", "averageRounded", "median", "medianRounded", "largest")
    return Report(
        _head("summary", selection, rows[0].ledger_seq),
        [
            Table(
                "currencies",
                ("currency", "donations", *SUMS, *averages),
                each(map(_currency_row, _with_currency(rows))),
            ),
            Table("donors", DONOR_COUNTS, each([_donor_counts(rows[0], has_begin=selection.period is not None)])),
        ],
    )


async def tickets(database: Database, selection: Selection) -> Report:
    """`report tickets`: what was given for each ticket, the largest net sum of each currency first."""
    rows = list(map(TicketRow._make, await database.fetch(load("rank_tickets"), _params(selection))))
    columns = ("currency", "ticket", "donations", *SUMS, "lastPaidAt")
    return Report(
        _head("tickets", selection, rows[0].ledger_seq),
        [Table("tickets", columns, each(map(_ticket_row, _with_currency(rows))))],
    )


async def donors(database: Database, selection: Selection, *, limit: int, by_donations: bool) -> Report:
    """`report donors`: the largest donors of each currency, by hash, or those with the most donations.

    Args:
        limit: donors of each currency.

    Raises:
        UnknownTicket: nothing has this ticket.
    """
    await check_ticket(database, selection.ticket)
    params = _params(selection) | {"limit": limit, "by_donations": by_donations}
    rows = list(map(DonorRow._make, await database.fetch(load("rank_donors"), params)))
    counts = {row.currency: (row.currency or None, row.donors, row.repeat_donors) for row in _with_currency(rows)}
    columns = ("currency", "emailHash", "donations", *SUMS, "firstPaidAt", "lastPaidAt")
    return Report(
        _head("donors", selection, rows[0].ledger_seq) | {"order": "donations" if by_donations else "amount"},
        [
            Table("totals", ("currency", "donors", "repeatDonors"), each(counts.values())),
            Table("donors", columns, each(map(_donor_row, _with_currency(rows)))),
        ],
    )


def _params(selection: Selection) -> dict[str, object]:
    period = selection.period
    return {
        "begin": period and period.begin,
        "end": period and period.end,
        "ticket": selection.ticket,
    }


def _head(name: str, selection: Selection, seq: int) -> dict[str, Cell]:
    return {
        **head(name, DONATIONS, selection.period, selection.time_zone),
        "seq": seq,
        "onlyTicket": selection.ticket,
    }


def _with_currency(rows: list[R]) -> list[R]:
    """The rows with figures: without a donation there is one row with the journal's last seq only."""
    return [row for row in rows if row.currency is not None]


def _sums(row: SummaryRow | TicketRow | DonorRow) -> tuple[Amount, ...]:
    net = row.paid_minor - row.refunded_minor - row.disputed_minor
    amounts = (row.paid_minor, row.refunded_minor, row.disputed_minor, net)
    return tuple(Amount(minor, row.currency or "") for minor in amounts)


def _currency_row(row: SummaryRow) -> Row:
    currency = row.currency or ""
    average = Fraction(row.paid_minor, row.known) if row.known else None
    median = _middle(row.lower_median_minor, row.upper_median_minor)
    largest = None if row.largest_minor is None else Amount(row.largest_minor, currency)
    return (
        *(row.currency or None, row.donations, *_sums(row)),
        *_exact_and_rounded(average, currency),
        *_exact_and_rounded(median, currency),
        largest,
    )


def _middle(lower: int | None, upper: int | None) -> Fraction | None:
    return None if lower is None or upper is None else Fraction(lower + upper, 2)


def _exact_and_rounded(minor: Fraction | None, currency: str) -> tuple[Fraction | None, Amount | None]:
    """An exact number of major units, and the amount that it is shown as: halves of a minor unit are rounded up."""
    if minor is None:
        return None, None
    return minor / 10 ** money.exponent(currency), Amount(floor(minor + Fraction(1, 2)), currency)


DONOR_COUNTS = ("donors", "newDonors", "returningDonors", "repeatDonors", "donationsWithoutHash")


def _donor_counts(row: SummaryRow, *, has_begin: bool) -> Row:
    """New donors gave for the first time ever within the period; without a period no donor is new or returning."""
    new = row.new_donors if has_begin else None
    returning = row.donors - row.new_donors if has_begin else None
    return row.donors, new, returning, row.repeat_donors, row.without_hash


def _ticket_row(row: TicketRow) -> Row:
    return row.currency or None, row.ticket or None, row.donations, *_sums(row), row.last_paid_at


def _donor_row(row: DonorRow) -> Row:
    return row.currency or None, row.hash, row.donations, *_sums(row), row.first_paid_at, row.last_paid_at

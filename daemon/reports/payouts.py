"""`report payouts`: each payout with the balance transactions that it consists of (SPEC 11).

Nothing is guessed: a payout that its transactions do not add up to is marked with the difference, and of one whose
transactions Stripe does not state (manual and instant payouts), that is all that is reported.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from datetime import UTC, date, datetime
from enum import StrEnum
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple
from zoneinfo import ZoneInfo

from daemon.ledger.balance import Group, group_of
from daemon.reports.entry_sums import find_moment
from daemon.reports.head import head
from daemon.reports.income import as_of
from daemon.reports.periods import Period
from daemon.reports.presentation import Amount, Report, Row, Table, each
from sql import load
from sql.database import Database

BALANCE = "balance"  # the source of these reports: what Stripe states of the account's balance
LISTED = 2_000  # transactions that one statement returns


class UnknownPayout(Exception):
    """No payout with this id is recorded; the message is for the person who asks."""


class State(StrEnum):
    """Whether a payout is the sum of its transactions."""

    ADDS_UP = "adds up"
    WRONG = "does not add up"
    IN_PROGRESS = "in progress"  # Stripe does not state all of its transactions yet
    NOT_ATTRIBUTABLE = "not attributable"  # Stripe does not state which transactions a manual or instant payout has


class SumRow(NamedTuple):
    """A row of sum_payouts.sql."""

    payout: str
    arrival: date
    currency: str
    amount_minor: int
    status: str
    method: str
    reconciliation: str
    category: str | None
    amount: int
    fee: int
    net: int
    wrong: int


class TransactionRow(NamedTuple):
    """A row of transactions_of_payout.sql."""

    id: str
    category: str
    type: str
    source: str | None
    donation: str | None
    created_at: datetime
    available_on: datetime
    currency: str
    amount_minor: int
    fee_minor: int
    net_minor: int
    exchange_rate: str | None


class PayoutSums(NamedTuple):
    """A payout, and what its transactions add up to, in minor units of its currency.

    Attributes:
        groups: the amounts of each group; fees are what they cost, so below 0.
        net_minor: the sum of the net amounts as Stripe states them.
        wrong: transactions whose net amount is not their amount less their fee, or that have another currency.
    """

    row: SumRow
    groups: dict[Group, int]
    net_minor: int
    wrong: int

    @property
    def difference_minor(self) -> int:
        """By how much the payout is more than its transactions."""
        return self.row.amount_minor - self.net_minor

    @property
    def state(self) -> State:
        """Whether it adds up."""
        if self.row.reconciliation == "not_applicable":
            return State.NOT_ATTRIBUTABLE
        if self.row.reconciliation == "in_progress":
            return State.IN_PROGRESS
        return State.WRONG if self.difference_minor or self.wrong else State.ADDS_UP


async def payouts(
    database: Database, time_zone: str, period: Period | None = None, payout: str | None = None
) -> Report:
    """`report payouts`: those that arrived in a period, of all times, or a single one.

    Raises:
        UnknownPayout: there is no payout with this id.
    """
    found = await find_moment(database, None)
    sums = list(add_up(map(SumRow._make, await database.fetch(load("sum_payouts"), _params(period, payout)))))
    if payout is not None and not sums:
        raise UnknownPayout(f"there is no payout {payout}, or it has not been read from Stripe yet")
    return Report(
        {
            **head("payouts", BALANCE, period, time_zone),
            **as_of(found),
            "feesSeq": found.fees_seq,
            "onlyPayout": payout,
            "wrongPayouts": sum(of_payout.state is State.WRONG for of_payout in sums),
        },
        [
            Table("payouts", PAYOUT_COLUMNS, each(map(_payout_row, sums))),
            Table("transactions", TRANSACTION_COLUMNS, _transaction_rows(database, sums)),
        ],
    )


def _params(period: Period | None, payout: str | None) -> dict[str, object]:
    """A payout arrives on a day, in whatever time zone that is."""
    first = after = None
    if period:
        zone = ZoneInfo(period.time_zone)
        first, after = (datetime.fromtimestamp(at, UTC).astimezone(zone).date() for at in (period.begin, period.end))
    return {"payout": payout, "first": first, "after": after}


def add_up(rows: Iterable[SumRow]) -> Iterator[PayoutSums]:
    """Pure: the payouts of rows that are in the order of sum_payouts.sql."""
    for _, of_payout in groupby(rows, attrgetter("payout")):
        parts = list(of_payout)
        groups: defaultdict[Group, int] = defaultdict(int)
        for part in parts:
            if part.category is not None:
                groups[group_of(part.category)] += part.amount
                groups[Group.FEES] -= part.fee
        yield PayoutSums(parts[0], groups, sum(part.net for part in parts), sum(part.wrong for part in parts))


PAYOUT_COLUMNS = (
    *("payout", "arrivalDate", "status", "method", "currency", "amount", *(group.value for group in Group)),
    *("sum", "difference", "state"),
)
TRANSACTION_COLUMNS = (
    *("payout", "transaction", "category", "object", "donation", "createdAt", "availableOn"),
    *("currency", "amount", "fee", "net", "exchangeRate"),
)


def _payout_row(sums: PayoutSums) -> Row:
    row, is_known = sums.row, sums.state is not State.NOT_ATTRIBUTABLE
    known = (*(sums.groups.get(group, 0) for group in Group), sums.net_minor, sums.difference_minor)
    return (
        *(row.payout, row.arrival.isoformat(), row.status, row.method, row.currency),
        Amount(row.amount_minor, row.currency),
        *(Amount(minor, row.currency) if is_known else None for minor in known),
        sums.state.value,
    )


async def _transaction_rows(database: Database, sums: Sequence[PayoutSums]) -> AsyncIterator[Row]:
    for payout in (of_payout.row.payout for of_payout in sums):
        after_id = ""
        while rows := await database.fetch(
            load("transactions_of_payout"), {"payout": payout, "after_id": after_id, "limit": LISTED}
        ):
            for row in map(TransactionRow._make, rows):
                amounts = (Amount(minor, row.currency) for minor in (row.amount_minor, row.fee_minor, row.net_minor))
                yield (
                    *(payout, row.id, row.category, row.source, row.donation, row.created_at, row.available_on),
                    *(row.currency, *amounts, row.exchange_rate),
                )
            after_id = rows[-1][0]

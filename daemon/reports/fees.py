"""What Stripe's fees of a period add up to: as of a moment, in parts, at any later time the same (SPEC 11).

A fee is in the currency in which Stripe settles, which may be another one than that of the payment; so it is never
subtracted from what was paid. The fee of a payment whose balance transaction is not known yet is unknown, and not 0.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import NamedTuple

from daemon.ledger.balance import GROUPS, Group, group_of
from daemon.reports.entry_sums import SUMMED, Entries, parts
from daemon.reports.presentation import Amount, Row, Table, each
from sql import load
from sql.database import Database

LISTED = 5_000  # rows that one statement returns
FEE_CATEGORIES = [category for category, group in GROUPS.items() if group is Group.FEES]
FEE_FIGURES = ("paymentFees", "refundFees", "disputeFees", "otherFees", "fees")


class Fees(NamedTuple):
    """What fees add up to, in minor units of one currency, by what they were taken for."""

    payments: int = 0
    refunds: int = 0
    disputes: int = 0
    other: int = 0

    def plus(self, other: "Fees") -> "Fees":
        """The sum of both."""
        return Fees(*map(sum, zip(self, other, strict=True)))

    def minus(self, other: "Fees") -> "Fees":
        """The difference."""
        return Fees(*(mine - theirs for mine, theirs in zip(self, other, strict=True)))


class FeeKey(NamedTuple):
    """What is added up by; '' is no ticket and no currency."""

    currency: str
    ticket: str


class FeeSums(NamedTuple):
    """The fees of a period, and how many donations were paid in it whose fee is not known."""

    seq: int  # the last row of balance_transactions that counts
    fees: Mapping[FeeKey, Fees]
    unknown: Mapping[FeeKey, int]


class FeeRow(NamedTuple):
    """A row of sum_fees.sql."""

    currency: str
    ticket: str
    category: str
    fee: int
    amount: int

    @property
    def fees(self) -> Fees:
        """What it adds."""
        group = group_of(self.category)
        total = self.fee + (self.amount if group is Group.FEES else 0)
        name = group.value if group in {Group.PAYMENTS, Group.REFUNDS, Group.DISPUTES} else "other"
        return Fees(**{name: total})


class ChangedFee(NamedTuple):
    """A row of changed_fees.sql."""

    seq: int
    recorded_at: datetime
    created_at: datetime
    donation: str | None
    transaction: str
    category: str
    currency: str
    fee: int
    former_fee: int | None


async def sum_fees(database: Database, entries: Entries, fees_seq: int) -> FeeSums:
    """The fees of a period as they were known after the row `fees_seq`, by the tickets of entries up to
    `entries.seq`."""
    params = _period(entries) | {"journal_seq": entries.seq, "ticket": entries.ticket}
    found: defaultdict[FeeKey, Fees] = defaultdict(Fees)
    for after, part in parts(0, fees_seq, SUMMED):
        bounds = {"after": after, "part": part, "seq": fees_seq}
        for row in map(FeeRow._make, await database.fetch(load("sum_fees"), params | bounds)):
            key = FeeKey(row.currency, row.ticket)
            found[key] = found[key].plus(row.fees)
    unknown = await database.fetch(load("count_unknown_fees"), params | {"fees_seq": fees_seq})
    return FeeSums(
        fees_seq,
        {key: fees for key, fees in sorted(found.items()) if any(fees)},
        {FeeKey(currency, ticket): count for currency, ticket, count in sorted(unknown)},
    )


def fee_tables(sums: FeeSums, prefix: str = "") -> list[Table]:
    """The tables of fees per currency, and per currency and ticket, and of the donations whose fee is not known.

    Args:
        prefix: of the tables' names, such as `filed`.
    """
    totals: defaultdict[str, Fees] = defaultdict(Fees)
    for key, fees in sums.fees.items():
        totals[key.currency] = totals[key.currency].plus(fees)
    return [
        Table(
            _name(prefix, "fees"),
            ("currency", *FEE_FIGURES),
            each((currency, *_amounts(fees, currency)) for currency, fees in sorted(totals.items())),
        ),
        Table(
            _name(prefix, "ticketFees"),
            ("currency", "ticket", *FEE_FIGURES),
            each((key.currency, key.ticket or None, *_amounts(fees, key.currency)) for key, fees in sums.fees.items()),
        ),
        Table(
            _name(prefix, "unknownFees"),
            ("currency", "ticket", "donations"),
            each((key.currency or None, key.ticket or None, count) for key, count in sums.unknown.items()),
        ),
    ]


def difference(filed: FeeSums, now: FeeSums) -> FeeSums:
    """What `now` is more than `filed`, without what is equal."""
    fees = {
        key: now.fees.get(key, Fees()).minus(filed.fees.get(key, Fees())) for key in sorted({*filed.fees, *now.fees})
    }
    unknown = {
        key: now.unknown.get(key, 0) - filed.unknown.get(key, 0) for key in sorted({*filed.unknown, *now.unknown})
    }
    return FeeSums(
        now.seq,
        {key: figures for key, figures in fees.items() if any(figures)},
        {key: count for key, count in unknown.items() if count},
    )


# `feeEntry` is its seq; the head has a `seq` too, and each row of CSV has both.
CHANGED_COLUMNS = (
    *("feeEntry", "entryRecordedAt", "effectiveAt", "donation", "object", "kind", "currency", "fee", "formerFee"),
)


async def changed_rows(database: Database, entries: Entries, after: int, fees_seq: int) -> AsyncIterator[Row]:
    """A row for each fee of a period that was recorded after one row of balance_transactions and up to another."""
    params = _period(entries) | {"after": after, "seq": fees_seq, "fees": FEE_CATEGORIES, "limit": LISTED}
    after_seq = 0
    while rows := await database.fetch(load("changed_fees"), params | {"after_seq": after_seq}):
        for row in map(ChangedFee._make, rows):
            former = None if row.former_fee is None else Amount(row.former_fee, row.currency)
            yield (
                *(row.seq, row.recorded_at, row.created_at, row.donation, row.transaction, row.category, row.currency),
                *(Amount(row.fee, row.currency), former),
            )
        after_seq = rows[-1][0]


def _period(entries: Entries) -> dict[str, object]:
    return {"begin": entries.period.begin, "end": entries.period.end}


def _amounts(fees: Fees, currency: str) -> list[Amount]:
    return [Amount(minor, currency) for minor in (*fees, sum(fees))]


def _name(prefix: str, name: str) -> str:
    return f"{prefix}{name[0].upper()}{name[1:]}" if prefix else name

"""Balance transactions and payouts compared with each other: sums, ties to donations, and whether a row is missing."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from daemon.ledger.money import major
from sql.connection import Row
from sql.snapshot import Snapshot


class WrongSum(NamedTuple):
    """A row of verify_payouts.sql: a payout, or a transaction, whose amount is not what it should be."""

    id: str
    currency: str
    is_minor: int
    ought_minor: int

    def __str__(self) -> str:
        is_, ought = (f"{major(minor, self.currency)} {self.currency}" for minor in (self.is_minor, self.ought_minor))
        if self.id.startswith("po_"):
            return f"payout {self.id} is {is_}, its transactions add up to {ought}"
        return f"balance transaction {self.id}: its net amount is {is_}, should be {ought}"


def wrong_sums(rows: Iterable[Row]) -> list[WrongSum]:
    """The rows of verify_payouts.sql."""
    return list(map(WrongSum._make, rows))


def balance_differences(snapshot: Snapshot) -> Iterator[str]:
    """A line for each payout and transaction that is not as it should be."""
    yield from map(str, wrong_sums(snapshot.rows("verify_payouts", {"since": None})))
    for id_, donation in snapshot.rows("verify_ties"):
        yield f"balance transaction {id_}: it is tied to donation {donation}, which is not known"
    for what, rows, last, unordered in snapshot.rows("verify_balance"):
        if rows != last:
            yield f"{what}: there are {rows} rows, but the last seq is {last}: restore them from a backup"
        if unordered:
            yield f"{what}: {unordered} rows are recorded before the row before them"

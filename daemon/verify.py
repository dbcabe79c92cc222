"""Recomputes the whole ledger from its facts and says what differs from what is stored.

It reads one snapshot, so it runs beside live traffic: donations and totals of one moment must agree.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import msgspec

from daemon import fold
from daemon.facts import DONOR_FIELDS
from sql.database import Row
from sql.snapshot import Snapshot

BATCH = 500  # donations per look at stripe_objects
FIELDS = 16  # of fold.Donation, in the order of verify_donations.sql
FIGURES = ("paid_minor", "refunded_minor", "disputed_minor", "paid", "refunded", "disputed", "partially_refunded")
COUNT_OF_STATUS = {"PAID": "paid", "REFUNDED": "refunded", "DISPUTED": "disputed"}


@dataclass
class TicketSums:
    """Totals by ticket and currency, added up from donations; '' stands for none."""

    figures: dict[tuple[str, str], dict[str, int]] = field(
        default_factory=lambda: defaultdict(lambda: dict.fromkeys(FIGURES, 0))
    )

    def add(self, donation: fold.Donation) -> None:
        """Counts a donation, if it was ever paid (SPEC 3)."""
        if donation.paid_at is None:
            return
        sums = self.figures[donation.ticket or "", donation.currency or ""]
        sums["paid_minor"] += donation.amount or 0
        sums["refunded_minor"] += donation.refunded
        sums["disputed_minor"] += donation.disputed
        sums[COUNT_OF_STATUS[donation.status]] += 1
        sums["partially_refunded"] += donation.status == "PAID" and donation.refunded > 0

    def missing(self, kept: Iterable[Row]) -> Iterator["MissingTotal"]:
        """What must be added to rows of verify_totals.sql to make them right."""
        stored = {(ticket, currency): dict(zip(FIGURES, figures, strict=True)) for ticket, currency, *figures in kept}
        nothing = dict.fromkeys(FIGURES, 0)
        for ticket, currency in sorted(stored.keys() | self.figures.keys()):
            is_ = stored.get((ticket, currency), nothing)
            ought = self.figures.get((ticket, currency), nothing)
            if is_ != ought:
                yield MissingTotal(ticket, currency, is_, ought)


@dataclass(frozen=True)
class MissingTotal:
    """A total that is not what it ought to be; '' stands for no ticket and no currency."""

    ticket: str
    currency: str
    is_: dict[str, int]
    ought: dict[str, int]

    def lines(self) -> Iterator[str]:
        """A line per figure that differs."""
        for name in FIGURES:
            if self.is_[name] != self.ought[name]:
                what = f"total of ticket {self.ticket or 'none'} in {self.currency or 'none'}"
                yield f"{what}: {name} is {self.is_[name]}, should be {self.ought[name]}"

    def as_input(self) -> dict[str, str | int]:
        """What to add, as repair_totals.sql reads it."""
        deltas = {name: self.ought[name] - self.is_[name] for name in FIGURES}
        return {"ticket": self.ticket, "currency": self.currency, **deltas}


def differences(stored: dict[str, fold.Donation], derived: dict[str, fold.Donation]) -> Iterator[str]:
    """A line for each difference between donations as they are stored and as their facts add up to, by id.

    A donor's own fields are named without their values.
    """
    for id_ in sorted(stored.keys() | derived.keys()):
        if id_ not in stored:
            yield f"donation {id_} is missing"
        elif id_ not in derived:
            yield f"donation {id_} has no facts"
        else:
            yield from _field_differences(stored[id_], derived[id_])


def _field_differences(stored: fold.Donation, derived: fold.Donation) -> Iterator[str]:
    ought = msgspec.structs.asdict(derived)
    for name, value in msgspec.structs.asdict(stored).items():
        if value != ought[name]:
            said = "differs" if name in DONOR_FIELDS else f"is {value}, should be {ought[name]}"
            yield f"donation {stored.id}: {name} {said}"


def verify(snapshot: Snapshot, progress: Callable[[int], None]) -> Iterator[str | MissingTotal]:
    """Recomputes every donation and every total.

    Args:
        progress: is called with the number of donations done since the last call.

    Yields:
        A line per difference of a donation, and each total that is not right; nothing if the ledger is.
    """
    sums, names = TicketSums(), 0
    linked: dict[str, dict[str, fold.Donation]] = defaultdict(dict)
    for row in snapshot.stream("verify_donations", {"with_facts": False}):
        linked[row[FIELDS]][row[0]] = fold.Donation(*row[:FIELDS])
    rows = snapshot.stream("verify_donations", {"with_facts": True})
    while batch := list(islice(rows, BATCH)):
        for row in batch:
            stored = {row[0]: fold.Donation(*row[:FIELDS]), **linked.pop(row[0], {})}
            derived = {donation.id: donation for donation in fold.donations(row[-1])}
            yield from differences(stored, derived)
            for donation in derived.values():
                sums.add(donation)
        root_of = {id_: row[0] for row in batch for id_ in fold.ids(row[-1])}
        names += len(root_of)
        yield from _misplaced(snapshot, root_of)
        progress(len(batch))
    for root, donations in linked.items():
        yield from (f"donation {id_}: its facts should be kept by {root}, which is missing" for id_ in donations)
    yield from sums.missing(snapshot.rows("verify_totals"))
    [(_, objects)] = snapshot.rows("verify_size")
    if objects != names:
        yield f"{objects} Stripe objects are on record, the facts name {names}"


def _misplaced(snapshot: Snapshot, root_of: dict[str, str]) -> Iterator[str]:
    kept: dict[str, str] = dict(snapshot.rows("verify_objects", {"ids": list(root_of)}))
    for id_, root in root_of.items():
        if kept.get(id_) != root:
            yield f"object {id_}: kept by {kept.get(id_) or 'nobody'}, should be by {root}"

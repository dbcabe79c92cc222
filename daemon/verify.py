"""Recomputes the whole ledger from its facts and says what differs from what is stored.

It reads one snapshot, so it runs beside live traffic: donations and totals of one moment must agree.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import msgspec

from daemon import fold
from daemon.facts import DONOR_FIELDS, Facts
from sql.database import Row
from sql.snapshot import Snapshot

BATCH = 500  # donations per look at stripe_objects
FIELDS = 16  # of fold.Donation, in the order of verify_donations.sql
FIGURES = ("paid_minor", "refunded_minor", "disputed_minor", "paid", "refunded", "disputed", "partially_refunded")
COUNT_OF_STATUS = {"PAID": "paid", "REFUNDED": "refunded", "DISPUTED": "disputed"}


@dataclass
class Tally:
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

    def differences(self, kept: Iterable[Row]) -> Iterator[str]:
        """A line for each figure that differs from rows of verify_totals.sql."""
        stored = {(ticket, currency): dict(zip(FIGURES, figures, strict=True)) for ticket, currency, *figures in kept}
        nothing = dict.fromkeys(FIGURES, 0)
        for key in sorted(stored.keys() | self.figures.keys()):
            is_, ought = stored.get(key, nothing), self.figures.get(key, nothing)
            for name in FIGURES:
                if is_[name] != ought[name]:
                    ticket, currency = (part or "none" for part in key)
                    yield f"total of ticket {ticket} in {currency}: {name} is {is_[name]}, should be {ought[name]}"


def differences(facts: Facts, stored: dict[str, fold.Donation]) -> Iterator[str]:
    """A line for each difference between the donations these facts add up to and those stored of them.

    A donor's own fields are named without their values.
    """
    derived = {donation.id: donation for donation in fold.donations(facts)}
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


def verify(snapshot: Snapshot, progress: Callable[[int], None]) -> Iterator[str]:
    """Recomputes every donation and every total.

    Args:
        progress: is called with the number of donations done since the last call.

    Yields:
        A line per difference; none if the ledger is right.
    """
    tally, names = Tally(), 0
    linked: dict[str, dict[str, fold.Donation]] = defaultdict(dict)
    for row in snapshot.stream("verify_donations", {"with_facts": False}):
        linked[row[FIELDS]][row[0]] = fold.Donation(*row[:FIELDS])
    rows = snapshot.stream("verify_donations", {"with_facts": True})
    while batch := list(islice(rows, BATCH)):
        for row in batch:
            stored = {row[0]: fold.Donation(*row[:FIELDS]), **linked.pop(row[0], {})}
            yield from differences(row[-1], stored)
            for donation in fold.donations(row[-1]):
                tally.add(donation)
        root_of = {id_: row[0] for row in batch for id_ in fold.ids(row[-1])}
        names += len(root_of)
        yield from _misplaced(snapshot, root_of)
        progress(len(batch))
    for root, donations in linked.items():
        yield from (f"donation {id_}: its facts should be kept by {root}, which is missing" for id_ in donations)
    yield from tally.differences(snapshot.rows("verify_totals"))
    [(_, objects)] = snapshot.rows("verify_size")
    if objects != names:
        yield f"{objects} Stripe objects are on record, the facts name {names}"


def _misplaced(snapshot: Snapshot, root_of: dict[str, str]) -> Iterator[str]:
    kept: dict[str, str] = dict(snapshot.rows("verify_objects", {"ids": list(root_of)}))
    for id_, root in root_of.items():
        if kept.get(id_) != root:
            yield f"object {id_}: kept by {kept.get(id_) or 'nobody'}, should be by {root}"

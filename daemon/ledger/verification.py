"""Derives the whole ledger from its facts and reports each difference from the stored rows.

It reads one snapshot, so it runs beside live traffic: donations and totals of one moment must agree.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import msgspec

from daemon.ledger import donation_objects, journal, projection
from daemon.ledger.balance_verification import balance_differences
from daemon.ledger.donation import Donation, Status
from daemon.ledger.facts import DONOR_FIELDS, Facts, Family, ObjectFacts, checked, object_ids, upgrade
from daemon.ledger.journal_verification import Entries, JournalSums
from daemon.ledger.reader import Figures
from sql.connection import Row
from sql.snapshot import Snapshot

BATCH = 500  # donations per query of stripe_objects
FIGURES = Figures._fields
COUNT_OF_STATUS = {Status.PAID: "paid", Status.REFUNDED: "refunded", Status.DISPUTED: "disputed"}
# What deriving raises for facts that no release wrote: text in the place of a time, a list that is too short.
MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


class StoredDonation(NamedTuple):
    """A row of verify_donations.sql: a donation, the row that keeps its facts, the facts, the version of the rules."""

    donation: Donation
    root: str
    facts: object
    rules: int

    @classmethod
    def of(cls, row: Row) -> "StoredDonation":
        """Reads a row, whose columns are named as the fields of the donation, and then as those of this type."""
        *fields, root, facts, rules = row
        return cls(Donation(*fields), root, facts, rules)


class StoredTotals(NamedTuple):
    """A row of verify_totals.sql."""

    ticket_id: str
    currency: str
    paid_minor: int
    refunded_minor: int
    disputed_minor: int
    paid: int
    refunded: int
    disputed: int
    partially_refunded: int


class StoredSizes(NamedTuple):
    """The row of verify_size.sql: about how many donations there are, and exactly how many objects."""

    donations: int
    objects: int


class StoredSubscription(NamedTuple):
    """A row of verify_subscriptions.sql."""

    id: str
    facts: object


class FailedCharge(NamedTuple):
    """A row of verify_failed_charges.sql."""

    id: str
    payment_intent: str


@dataclass
class TicketSums:
    """Totals by ticket and currency, added up from donations; '' stands for none."""

    figures: dict[tuple[str, str], dict[str, int]] = field(
        default_factory=lambda: defaultdict(lambda: dict.fromkeys(FIGURES, 0))
    )

    def add(self, donation: Donation) -> None:
        """Counts a donation, if it was ever paid (SPEC 3)."""
        if donation.paid_at is None:
            return
        sums = self.figures[donation.ticket or "", donation.currency or ""]
        sums["paid_minor"] += donation.amount or 0
        sums["refunded_minor"] += donation.refunded
        sums["disputed_minor"] += donation.disputed
        sums[COUNT_OF_STATUS[donation.status]] += 1
        sums["partially_refunded"] += donation.status == Status.PAID and donation.refunded > 0

    def differences(self, totals: Iterable[StoredTotals]) -> Iterator[str]:
        """A line per figure in which stored totals differ from these sums."""
        stored = {(row.ticket_id, row.currency): row._asdict() for row in totals}
        nothing = dict.fromkeys(FIGURES, 0)
        for ticket, currency in sorted(stored.keys() | self.figures.keys()):
            is_ = stored.get((ticket, currency), nothing)
            ought = self.figures.get((ticket, currency), nothing)
            for name in (name for name in FIGURES if is_[name] != ought[name]):
                what = f"total of ticket {ticket or 'none'} in {currency or 'none'}"
                yield f"{what}: {name} is {is_[name]}, should be {ought[name]}"


def differences(stored: dict[str, Donation], derived: dict[str, Donation]) -> Iterator[str]:
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


def _field_differences(stored: Donation, derived: Donation) -> Iterator[str]:
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
        A line per difference; nothing if the ledger is right.
    """
    verification = _Verification(snapshot)
    rows = map(StoredDonation.of, snapshot.stream("verify_donations", {"with_facts": True}))
    while batch := list(islice(rows, BATCH)):
        yield from verification.check_rows(batch)
        progress(len(batch))
    yield from verification.check_sums()
    yield from balance_differences(snapshot)


class _Verification:
    """What the rows that were checked add up to."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._sums, self._booked, self._object_count = TicketSums(), JournalSums(snapshot), 0
        # The donations whose facts another row keeps, by the id of that row.
        self._linked: dict[str, dict[str, Donation]] = defaultdict(dict)
        for row in map(StoredDonation.of, snapshot.stream("verify_donations", {"with_facts": False})):
            self._linked[row.root][row.donation.id] = row.donation

    def check_rows(self, batch: Sequence[StoredDonation]) -> Iterator[str]:
        """Derives the donations of rows with facts again, with their entries."""
        facts_of, malformed = _facts_of(batch)
        subscriptions, malformed_subscriptions = _subscriptions(self._snapshot, facts_of.values())
        yield from malformed + malformed_subscriptions
        entries: dict[str, Entries] = {}
        for row in batch:
            id_ = row.donation.id
            stored = {id_: row.donation, **self._linked.pop(id_, {})}
            if id_ not in facts_of:
                continue
            try:
                entries[id_] = _derive(facts_of[id_], subscriptions)
            except MALFORMED as error:
                del facts_of[id_]
                yield _malformed(f"donation {id_}: its facts, or those of its subscription,", error)
            else:
                yield from self._check_donations(stored, entries[id_])
        older = {row.donation.id for row in batch if row.rules < projection.RULES_VERSION}
        yield from self._booked.check(facts_of, entries, older)
        root_of = _roots(self._snapshot, facts_of)
        self._object_count += len(root_of)
        yield from _misplaced(self._snapshot, root_of)

    def _check_donations(self, stored: dict[str, Donation], entries: Entries) -> Iterator[str]:
        derived = {donation.id: donation for donation, _ in entries}
        yield from differences(stored, derived)
        for donation in derived.values():
            self._sums.add(donation)

    def check_sums(self) -> Iterator[str]:
        """Compares what all rows add up to with the totals, the journal and the number of objects."""
        for root, donations in self._linked.items():
            yield from (f"donation {id_}: its facts should be kept by {root}, which is missing" for id_ in donations)
        totals = [StoredTotals(*row) for row in self._snapshot.rows("verify_totals")]
        yield from self._sums.differences(totals)
        yield from self._booked.differences({(of.ticket_id, of.currency): of[2:5] for of in totals})
        objects = stored_sizes(self._snapshot).objects
        if objects != self._object_count:
            yield f"{objects} Stripe objects are on record, the facts name {self._object_count}"


def stored_sizes(snapshot: Snapshot) -> StoredSizes:
    """How much there is to verify."""
    [row] = snapshot.rows("verify_size")
    return StoredSizes._make(row)


def _facts_of(batch: Iterable[StoredDonation]) -> tuple[dict[str, Facts], list[str]]:
    """The facts of rows of verify_donations.sql in today's form, by id, and a line for each row whose are malformed."""
    facts_of: dict[str, Facts] = {}
    malformed = []
    for row in batch:
        try:
            facts = checked(row.facts)
            facts_of[row.donation.id] = upgrade(facts) if row.rules == 0 else facts
        except MALFORMED as error:
            malformed.append(_malformed(f"donation {row.donation.id}: its facts", error))
    return facts_of, malformed


def _derive(facts: Facts, subscriptions: donation_objects.Subscriptions) -> Entries:
    """The donations that facts add up to, with their entries. Raises one of MALFORMED, also for a field of a wrong
    type."""
    derived = [
        (msgspec.structs.asdict(donation), entries) for donation, entries in journal.derive(facts, subscriptions)
    ]
    return msgspec.convert(derived, Entries)


def _malformed(what: str, error: Exception) -> str:
    """The difference, without any value: facts may be a donor's."""
    return f"{what} are malformed ({type(error).__name__}): restore the row from a backup"


def _roots(snapshot: Snapshot, facts_of: dict[str, Facts]) -> dict[str, str]:
    """Object id -> the row that should keep it, for the objects of these rows and their failed charges kept apart."""
    root_of = {id_: root for root, facts in facts_of.items() for id_ in object_ids(facts)}
    intents = [id_ for facts in facts_of.values() for id_ in facts.get(Family.PAYMENT_INTENT, ())]
    apart = map(FailedCharge._make, snapshot.rows("verify_failed_charges", {"ids": intents}))
    return root_of | {charge.id: root_of[charge.payment_intent] for charge in apart}


def _subscriptions(snapshot: Snapshot, facts: Iterable[Facts]) -> tuple[dict[str, ObjectFacts], list[str]]:
    """What is held of the subscriptions that these facts name, and a line for each whose facts are malformed."""
    named = {id_ for each in facts for id_ in projection.subscriptions(each)}
    subscriptions: dict[str, ObjectFacts] = {}
    malformed = []
    rows = snapshot.rows("verify_subscriptions", {"ids": list(named)}) if named else []
    for row in map(StoredSubscription._make, rows):
        try:
            subscriptions |= checked(row.facts)[Family.SUBSCRIPTION]
        except MALFORMED as error:
            malformed.append(_malformed(f"subscription {row.id}: its facts", error))
    return subscriptions, malformed


def _misplaced(snapshot: Snapshot, root_of: dict[str, str]) -> Iterator[str]:
    kept: dict[str, str] = dict(snapshot.rows("verify_objects", {"ids": list(root_of)}))
    for id_, root in root_of.items():
        if kept.get(id_) != root:
            yield f"object {id_}: kept by {kept.get(id_) or 'no row'}, should be by {root}"

"""Recomputes the whole ledger from its facts and says what differs from what is stored.

It reads one snapshot, so it runs beside live traffic: donations and totals of one moment must agree.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import msgspec

from daemon.ledger import journal, projection
from daemon.ledger.donation import Donation
from daemon.ledger.facts import DONOR_FIELDS, Facts, Family, ObjectFacts, checked, object_ids, upgrade
from daemon.ledger.journal_verification import Entries, JournalSums
from sql.connection import Row
from sql.snapshot import Snapshot

BATCH = 500  # donations per look at stripe_objects
FIELDS = 17  # of fold.Donation, in the order of verify_donations.sql
FIGURES = ("paid_minor", "refunded_minor", "disputed_minor", "paid", "refunded", "disputed", "partially_refunded")
COUNT_OF_STATUS = {"PAID": "paid", "REFUNDED": "refunded", "DISPUTED": "disputed"}
# What deriving raises for facts that no release wrote: text in the place of a time, a list that is too short.
MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


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
        sums["partially_refunded"] += donation.status == "PAID" and donation.refunded > 0

    def differences(self, kept: Iterable[Row]) -> Iterator[str]:
        """A line per figure in which rows of verify_totals.sql differ from these sums."""
        stored = {(ticket, currency): dict(zip(FIGURES, figures, strict=True)) for ticket, currency, *figures in kept}
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
    sums, booked, names = TicketSums(), JournalSums(snapshot), 0
    linked: dict[str, dict[str, Donation]] = defaultdict(dict)
    for row in snapshot.stream("verify_donations", {"with_facts": False}):
        linked[row[FIELDS]][row[0]] = Donation(*row[:FIELDS])
    rows = snapshot.stream("verify_donations", {"with_facts": True})
    while batch := list(islice(rows, BATCH)):
        facts_of, malformed = _facts_of(batch)
        lent, malformed_lent = _subscriptions(snapshot, facts_of.values())
        yield from malformed + malformed_lent
        entries: dict[str, Entries] = {}
        for row in batch:
            stored = {row[0]: Donation(*row[:FIELDS]), **linked.pop(row[0], {})}
            if row[0] not in facts_of:
                continue
            try:
                entries[row[0]] = _derive(facts_of[row[0]], lent)
            except MALFORMED as error:
                del facts_of[row[0]]
                yield _malformed(f"donation {row[0]}: its facts, or those of its subscription,", error)
                continue
            derived = {donation.id: donation for donation, _ in entries[row[0]]}
            yield from differences(stored, derived)
            for donation in derived.values():
                sums.add(donation)
        yield from booked.check(facts_of, entries, {row[0] for row in batch if row[-1] < projection.RULES_VERSION})
        root_of = _roots(snapshot, facts_of)
        names += len(root_of)
        yield from _misplaced(snapshot, root_of)
        progress(len(batch))
    for root, donations in linked.items():
        yield from (f"donation {id_}: its facts should be kept by {root}, which is missing" for id_ in donations)
    yield from sums.differences(snapshot.rows("verify_totals"))
    yield from booked.differences()
    [(_, objects)] = snapshot.rows("verify_size")
    if objects != names:
        yield f"{objects} Stripe objects are on record, the facts name {names}"


def _facts_of(batch: Iterable[Row]) -> tuple[dict[str, Facts], list[str]]:
    """The facts of rows of verify_donations.sql in today's form, by id, and a line for each row whose are malformed."""
    facts_of: dict[str, Facts] = {}
    malformed = []
    for row in batch:
        try:
            facts = checked(row[-2])
            facts_of[row[0]] = upgrade(facts) if row[-1] == 0 else facts
        except MALFORMED as error:
            malformed.append(_malformed(f"donation {row[0]}: its facts", error))
    return facts_of, malformed


def _derive(facts: Facts, lent: projection.Subscriptions) -> Entries:
    """The donations that facts add up to, with their entries. Raises one of MALFORMED, also for a field of a wrong
    type."""
    derived = [(msgspec.structs.asdict(donation), entries) for donation, entries in journal.derive(facts, lent)]
    return msgspec.convert(derived, Entries)


def _malformed(what: str, error: Exception) -> str:
    """The difference, without any value: facts may be a donor's."""
    return f"{what} are malformed ({type(error).__name__}): restore the row from a backup"


def _roots(snapshot: Snapshot, facts_of: dict[str, Facts]) -> dict[str, str]:
    """Object id -> the row that should keep it, for the objects of these rows and their failed charges kept apart."""
    root_of = {id_: root for root, facts in facts_of.items() for id_ in object_ids(facts)}
    intents = [id_ for facts in facts_of.values() for id_ in facts.get(Family.PAYMENT_INTENT, ())]
    apart = snapshot.rows("verify_failed_charges", {"ids": intents})
    return root_of | {charge: root_of[intent] for charge, intent in apart}


def _subscriptions(snapshot: Snapshot, facts: Iterable[Facts]) -> tuple[dict[str, ObjectFacts], list[str]]:
    """What is held of the subscriptions that these facts name, and a line for each whose facts are malformed."""
    named = {id_ for each in facts for id_ in projection.subscriptions(each)}
    lent: dict[str, ObjectFacts] = {}
    malformed = []
    for id_, kept in snapshot.rows("verify_subscriptions", {"ids": list(named)}) if named else []:
        try:
            lent |= checked(kept)[Family.SUBSCRIPTION]
        except MALFORMED as error:
            malformed.append(_malformed(f"subscription {id_}: its facts", error))
    return lent, malformed


def _misplaced(snapshot: Snapshot, root_of: dict[str, str]) -> Iterator[str]:
    kept: dict[str, str] = dict(snapshot.rows("verify_objects", {"ids": list(root_of)}))
    for id_, root in root_of.items():
        if kept.get(id_) != root:
            yield f"object {id_}: kept by {kept.get(id_) or 'nobody'}, should be by {root}"

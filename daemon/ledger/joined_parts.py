"""A *part*: everything that is tied together by the ids it names, usually one donation."""

from dataclasses import dataclass, field

import msgspec

from daemon.ledger import donation_objects, journal, kept_facts, projection
from daemon.ledger.changes import Change, Derivation, ReadObjects, ReceivedEvent
from daemon.ledger.donation import Donation
from daemon.ledger.facts import FactName, Facts, Family, ObjectFacts, merge_into
from daemon.ledger.operator_actions import OperatorAction
from daemon.ledger.stored_rows import StoredRow
from daemon.ledger.written_rows import (
    BaseRow,
    BillingRow,
    BookedRow,
    ChargeRow,
    EntryRow,
    ObjectRow,
    PlaceRow,
    WrittenRows,
)


@dataclass
class Part:
    """Everything that is tied together by the ids it names: stored rows, changes, and the donations they add up to."""

    stored: list[StoredRow] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    cause: Change | None = None
    ids: set[str] = field(default_factory=set)
    facts: Facts = field(default_factory=dict)
    subscriptions: set[str] = field(default_factory=set)  # from which its donations can take their ticket
    lost_attempts: set[str] = field(default_factory=set)  # PaymentIntents whose failed charges are needed again
    is_written: bool = False
    version: int = 0
    root: str = ""
    donations: list[Donation] = field(default_factory=list)
    digest: int = 0  # of the entries of its donations
    booked_ids: set[str] = field(default_factory=set)  # of the donations whose entries may differ from the journal
    entries: journal.DonationEntries = ()  # of these donations
    failed_charges: dict[str, ObjectFacts] = field(default_factory=dict)

    def join(self, other: "Part") -> None:
        """Takes over everything of another part."""
        self.stored += other.stored
        self.changes += other.changes
        self.ids |= other.ids

    def merge_changes(self) -> None:
        """Merges the changes into the stored facts. The part is written if that adds anything, or to be derived again;
        a row to be derived again that is not found by its id has no facts here, and stays as it is."""
        rows = sorted(self.stored, key=lambda row: row.version, reverse=True)
        self.facts = rows[0].facts if rows else {}
        for row in rows[1:]:
            merge_into(self.facts, row.facts)
        places = kept_facts.failed_places(self.facts)
        news = [c for c in self.changes if merge_into(self.facts, c.facts) or isinstance(c, Derivation)]
        self.subscriptions = projection.subscriptions(self.facts)
        self.cause = next(reversed(news or self.changes), None)
        is_one_row = sum(row.version > 0 for row in rows) == 1
        self.is_written = bool(self.facts) and (bool(news) or not is_one_row)
        self.lost_attempts = kept_facts.lost_attempts(places, self.facts)

    def add_attempts(self, rows: list[StoredRow]) -> None:
        """Adds failed charges that were kept apart."""
        self.stored += rows
        for row in rows:
            merge_into(self.facts, row.facts)
        self.subscriptions = projection.subscriptions(self.facts)

    @property
    def new_subscriptions(self) -> set[str]:
        """The subscriptions that it borrows from now, and no stored row did."""
        return self.subscriptions.difference(*(row.subscriptions for row in self.stored))

    def derive(self, lent: donation_objects.Subscriptions) -> None:
        """Derives its donations, and names its root."""
        if not self.is_written:
            return
        self.version = 1 + max((row.version for row in self.stored), default=0)
        self.facts, self.failed_charges = kept_facts.split_attempts(kept_facts.redact(self.facts))
        derived = journal.derive(self.facts, lent)
        self.donations = [donation for donation, _ in derived]
        self.root = self.donations[0].id if self.donations else min(self.facts[Family.INVOICE])
        self.digest = journal.digest(derived)
        is_rebuilt = any(isinstance(change, Derivation) for change in self.changes)
        if is_rebuilt or not self._is_booked(derived):
            self.booked_ids = projection.donation_ids(self.facts)
            self.entries = derived

    def _is_booked(self, derived: journal.DonationEntries) -> bool:
        """Whether just these entries are known to be in the journal already."""
        rows = [row for row in self.stored if row.version > 0]
        if not rows:
            return not any(entries for _, entries in derived)
        return len(rows) == 1 and rows[0].entries_digest == self.digest

    def add_rows(self, n: int, rows: WrittenRows) -> None:
        """Adds what is to be written of it."""
        bases = [row for row in self.stored if row.version]
        rows.bases += [BaseRow(n, row.root, row.version, self.is_written) for row in bases]
        if not self.is_written:
            return
        others = {id_ for row in bases for id_ in row.other_donations}.difference(row.root for row in bases)
        rows.bases += [BaseRow(n, id_, None, True) for id_ in others]
        self._add_objects(n, rows)
        for donation in self.donations:
            is_root = donation.id == self.root
            version, digest = (self.version, self.digest ^ self.version) if is_root else (0, None)
            rows.donations.append(donation)
            rows.places.append(PlaceRow(n, self.root, version, projection.RULES_VERSION, digest))
            rows.facts.append(msgspec.json.encode(self.facts) if is_root else b"")
        self._add_entries(n, rows)
        self._add_billing(n, rows)
        self._add_charges(n, rows)

    def _add_objects(self, n: int, rows: WrittenRows) -> None:
        """The objects that no row contained, and those whose facts are in another row now."""
        new = self.ids.difference(*(row.ids for row in self.stored))
        relocated = {id_ for row in self.stored if row.version and row.root != self.root for id_ in row.ids}
        rows.objects += [ObjectRow(n, id_, self.root, is_new=True) for id_ in new]
        rows.objects += [ObjectRow(n, id_, self.root, is_new=False) for id_ in relocated]

    def _add_entries(self, n: int, rows: WrittenRows) -> None:
        """The entries of its donations, where they may differ from the journal."""
        cause = self._cause()
        rows.booked += [BookedRow(n, id_, *cause) for id_ in self.booked_ids]
        for donation, entries in self.entries:
            place = donation.id, donation.ticket or "", donation.currency or ""
            rows.entries += [EntryRow(n, *place, e.kind, e.object, e.at, e.amount, *cause) for e in entries]

    def _cause(self) -> tuple[str | None, str | None]:
        """What its entries are booked for. An operator action has no id yet, and is named by its donation."""
        match self.cause:
            case ReceivedEvent(event):
                return event.id, None
            case OperatorAction(donation=donation):
                return None, donation
            case ReadObjects(cause=cause):
                return cause, None
        return f"rebuild:{projection.RULES_VERSION}", None

    def _add_billing(self, n: int, rows: WrittenRows) -> None:
        """The row of an invoice without a payment, or its end when the payment is known."""
        if not self.donations:
            rows.billing.append(BillingRow(n, self.root, self.version, self.facts))
        else:
            rows.billing += [BillingRow(n, row.root, 0, None) for row in self.stored if row.is_invoice]

    def _add_charges(self, n: int, rows: WrittenRows) -> None:
        """The failed charges that are kept apart from now on, and those that no longer are."""
        returned = {row.root for row in self.stored if row.version == 0} - self.failed_charges.keys()
        rows.charges += [ChargeRow(n, id_, "", None) for id_ in returned]
        rows.charges += [
            ChargeRow(n, id_, known[FactName.PAYMENT_INTENT][1], known) for id_, known in self.failed_charges.items()
        ]


def join_ids(part_of: dict[str, Part], ids: set[str]) -> Part:
    """The one part of everything that has these ids; parts that meet in them become one."""
    met = {id(part): part for id_ in ids if (part := part_of.get(id_))}
    joined, *others = met.values() or [Part()]
    for other in others:
        joined.join(other)
        part_of.update(dict.fromkeys(other.ids, joined))
    joined.ids |= ids
    part_of.update(dict.fromkeys(ids, joined))
    return joined

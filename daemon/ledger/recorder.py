"""Records events and operator actions: the only caller of the SQL that writes donations.

The stored rows of a batch's objects are read, merged with the batch and derived here, in Python, and written by one
statement that first checks that the rows are still those that were read. A donation whose rows were changed meanwhile
is not written; it is read and derived again. So no lock is held while this process computes, SQL contains none of
Stripe's rules, and the rules are plain Python that tests can compare with a model.

A *part* is everything that is tied together by the ids it names: usually one donation. A *group* is what must be
written together: usually one part; if what a subscription lends changes, the subscription and all its payments.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

import msgspec

from daemon.ledger import journal, projection
from daemon.ledger.donation import Donation
from daemon.ledger.facts import (
    FactName,
    Facts,
    Family,
    ObjectFacts,
    merge,
    merge_into,
    merge_object,
    object_ids,
    upgrade,
    value,
)
from daemon.ledger.operator_actions import OperatorAction
from daemon.ledger.stripe_events import CannotApply, StripeEvent, read
from daemon.ledger.written_rows import (
    USUAL_PARAMS,
    ActionRow,
    BaseRow,
    BillingRow,
    BookedRow,
    ChargeRow,
    EntryRow,
    EventRow,
    ObjectRow,
    PlaceRow,
    WrittenRows,
)
from sql import load
from sql.connection import Row
from sql.database import Database
from sql.errors import DatabaseUnavailable, StatementRejected

# Each round either writes a donation or reads what another process has just written. More rounds than this mean that
# other processes write the same donations all the time: Stripe delivers the event again.
ROUNDS = 20

# The statements look rows up by their keys. They are planned once per connection, because a plan costs more than a
# batch. But for tables that are analysed while empty PostgreSQL plans to read a whole index for each row, and keeps to
# that plan until the next ANALYZE; so they are planned again when the ledger has grown by GROWTH. (A plan of a new
# preparation uses the tables' present size, also where their statistics are old.)
FIRST_GROWTH, GROWTH = 1000, 10
RECORD = load("record_events")
PREPARE = f"""
DEALLOCATE ALL;
SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off;
SET enable_memoize = off;
PREPARE find_stored AS {load("find_stored")};
PREPARE find_subscriptions AS {load("find_subscriptions")};
PREPARE find_subscription_payments AS {load("find_subscription_payments")};
PREPARE record_events (json, json, json, json, text, json, json, json, json, json, json) AS {{record}};
PREPARE record_events_short (json, json, json, json, text, json, json, json) AS {{short}}
"""
FIND_STORED = "EXECUTE find_stored (%s)"
FIND_SUBSCRIPTIONS = "EXECUTE find_subscriptions (%s)"
FIND_SUBSCRIPTION_PAYMENTS = "EXECUTE find_subscription_payments (%s)"
EXECUTE = f"{load('lock_ledger')};\nEXECUTE record_events (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
EXECUTE_SHORT = f"{load('lock_ledger')};\nEXECUTE record_events_short (%s, %s, %s, %s, %s, %s, %s, %s)"


class ReceivedEvent(msgspec.Struct, frozen=True):
    """One event to record. `error` is the scrubbed reason why it can't be applied, else None."""

    event: StripeEvent
    error: str | None = None

    @classmethod
    def read(
        cls, body: bytes, *, livemode: bool, hash_key: bytes | None, account: str | None = None
    ) -> "ReceivedEvent":
        """Reads an event, also one that cannot be applied. Arguments and NotAnEvent as stripe_events.read."""
        try:
            return cls(read(body, livemode=livemode, hash_key=hash_key, account=account))
        except CannotApply as failure:
            return cls(failure.event, failure.reason)

    @property
    def facts(self) -> Facts:
        """The facts that the event states; none if it changes nothing."""
        return self.event.facts or {}

    @property
    def ids(self) -> set[str]:
        """The objects that it ties together."""
        return object_ids(self.facts)


class Derivation(msgspec.Struct, frozen=True):
    """A stored row to be derived again from its facts, by today's rules. `id` is the row's."""

    id: str

    @property
    def facts(self) -> Facts:
        """It states no facts of its own."""
        return {}

    @property
    def ids(self) -> set[str]:
        """The row's id."""
        return {self.id}


class ReadObjects(msgspec.Struct, frozen=True):
    """Facts that objects of Stripe's API state. `cause` is what their journal entries are booked for."""

    facts: Facts
    cause: str

    @property
    def ids(self) -> set[str]:
        """The objects that it ties together."""
        return object_ids(self.facts)


Change = ReceivedEvent | OperatorAction | Derivation | ReadObjects


class Result(StrEnum):
    """What became of a change."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"  # an event that had been recorded before
    IGNORED = "ignored"  # an event that changes nothing; it is recorded
    FAILED = "failed"  # an event that can't be applied; it is recorded with the reason


class Outcome(NamedTuple):
    """What became of one change. `error` is the scrubbed reason of a failure, else None."""

    result: Result
    error: str | None = None


APPLIED, DUPLICATE, IGNORED = Outcome(Result.APPLIED), Outcome(Result.DUPLICATE), Outcome(Result.IGNORED)


@dataclass
class _Recorded:
    """What was recorded so far.

    `new` contains the ids of events that are recorded now (or had failed before), `rejected` the ids of those among
    them whose facts the database rejected, with the scrubbed reason.
    """

    new: set[str] = field(default_factory=set)
    rejected: dict[str, str] = field(default_factory=dict)

    def outcomes(self, changes: Sequence[Change]) -> list[Outcome]:
        """One per change. A second copy of an event that was applied is a duplicate; one that failed fails again."""
        answered: set[str] = set()
        outcomes = []
        for change in changes:
            if isinstance(change, ReceivedEvent):
                outcomes.append(self._outcome(change, is_copy=change.event.id in answered))
                answered.add(change.event.id)
            else:
                outcomes.append(APPLIED)
        return outcomes

    def _outcome(self, change: ReceivedEvent, *, is_copy: bool) -> Outcome:
        event = change.event
        if event.id not in self.new:
            return DUPLICATE
        if (error := self.rejected.get(event.id, change.error)) is not None:
            return Outcome(Result.FAILED, error)
        if is_copy:
            return DUPLICATE
        return APPLIED if event.facts is not None else IGNORED


class KnownFacts(NamedTuple):
    """Facts of some objects: those that are stored, and those that are compared with them."""

    stored: Facts
    stated: Facts


class FoundRow(NamedTuple):
    """A row of find_stored.sql."""

    root: str
    version: int
    facts: str
    rules: int | None
    entries_digest: int | None


class FoundSubscription(NamedTuple):
    """A row of find_subscriptions.sql."""

    id: str
    version: int
    facts: str


class RecordedRow(NamedTuple):
    """The row of record_events.sql: ids of events, and numbers of groups."""

    recorded: list[str]
    conflicting: list[int]


@dataclass
class _StoredRow:
    """A row with facts; version 0 for a failed charge that is kept apart from its donation."""

    root: str
    version: int
    facts: Facts
    is_current: bool = False  # whether today's rules derived it
    entries_digest: int | None = None  # of its donations' entries in the journal; None if it is not known

    def __post_init__(self) -> None:
        self.ids = object_ids(self.facts)
        is_one = self.is_current and projection.is_one_donation(self.facts, self.root)
        # The ids, besides `root`, of donations that may be stored with these facts.
        self.other_donations = set() if is_one else projection.donation_ids(self.facts) - {self.root}
        self.subscriptions = projection.subscriptions(self.facts)
        self.is_invoice = self.version > 0 and self.facts.keys() == {Family.INVOICE}

    @classmethod
    def of(cls, row: FoundRow) -> "_StoredRow":
        """Decodes a row, and upgrades the facts of one that older rules stored.

        The digest of the entries is stored combined with the row's version: after a release that does not know the
        digest has written another version, it equals no entries' digest.

        A failed charge is stored with the id of its PaymentIntent, because an event may name the charge only.
        """
        facts = msgspec.json.decode(row.facts)
        if row.version == 0:
            intent: Facts = {Family.PAYMENT_INTENT: {facts[FactName.PAYMENT_INTENT][1]: {}}}
            return cls(row.root, 0, {**intent, Family.CHARGE: {row.root: facts}})
        is_current, digest = row.rules == projection.RULES_VERSION, None
        if is_current and row.entries_digest is not None:
            digest = row.entries_digest ^ row.version
        return cls(row.root, row.version, upgrade(facts) if row.rules == 0 else facts, is_current, digest)


# What a subscription lends its payments.
LENT = (
    FactName.TICKET,
    FactName.SESSION_TICKET,
    FactName.SESSION_REFERENCE,
    FactName.SESSION_SHOW_NAME,
)


@dataclass
class _Subscription:
    """A subscription's stored facts, and whether they are to be written. Version 0: none are stored yet."""

    id: str
    version: int = 0
    facts: ObjectFacts = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    is_written: bool = False
    lent_changed: bool = False

    def merge_changes(self) -> None:
        """Merges its own events. A change of what it lends concerns all its payments."""
        before = self._lent()
        for change in self.changes:
            self.is_written |= merge_object(Family.SUBSCRIPTION, self.facts, change.facts[Family.SUBSCRIPTION][self.id])
        self.lent_changed = before != self._lent()

    def _lent(self) -> list[object]:
        return [FactName.CONSENT_WITHDRAWN in self.facts, *(value(self.facts, name) for name in LENT)]


@dataclass
class _Part:
    """Everything that is tied together by the ids it names: stored rows, changes, and the donations they add up to."""

    stored: list[_StoredRow] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    cause: Change | None = None
    ids: set[str] = field(default_factory=set)
    facts: Facts = field(default_factory=dict)
    subscriptions: set[str] = field(default_factory=set)  # from which its donations can take their ticket
    is_written: bool = False
    version: int = 0
    root: str = ""
    donations: list[Donation] = field(default_factory=list)
    digest: int = 0  # of the entries of its donations
    booked_ids: set[str] = field(default_factory=set)  # of the donations whose entries may differ from the journal
    entries: journal.DonationEntries = ()  # of these donations
    failed_charges: dict[str, ObjectFacts] = field(default_factory=dict)

    def join(self, other: "_Part") -> None:
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
        news = [c for c in self.changes if merge_into(self.facts, c.facts) or isinstance(c, Derivation)]
        self.subscriptions = projection.subscriptions(self.facts)
        self.cause = next(reversed(news or self.changes), None)
        is_one_row = sum(row.version > 0 for row in rows) == 1
        self.is_written = bool(self.facts) and (bool(news) or not is_one_row)

    @property
    def new_subscriptions(self) -> set[str]:
        """The subscriptions that it borrows from now, and no stored row did."""
        return self.subscriptions.difference(*(row.subscriptions for row in self.stored))

    def derive(self, lent: projection.Subscriptions) -> None:
        """Derives its donations, and names its root."""
        if not self.is_written:
            return
        self.version = 1 + max((row.version for row in self.stored), default=0)
        self.facts, self.failed_charges = projection.split_attempts(projection.redact(self.facts))
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


@dataclass
class _Group:
    """What is written together or not at all."""

    parts: list[_Part] = field(default_factory=list)
    subscriptions: list[_Subscription] = field(default_factory=list)  # those to be written

    @property
    def changes(self) -> list[Change]:
        """The changes that wait for it."""
        of_parts = [change for part in self.parts for change in part.changes]
        return of_parts + [change for each in self.subscriptions for change in each.changes]

    def add_rows(self, n: int, rows: WrittenRows, lenders: dict[str, _Subscription]) -> None:
        """Adds what is to be written of it, and the rows and versions that it was derived from."""
        for part in self.parts:
            part.add_rows(n, rows)
        lent = {id_ for part in self.parts if part.is_written for id_ in part.subscriptions}
        lent |= {each.id for each in self.subscriptions}
        rows.bases += [BaseRow(n, id_, lenders[id_].version, written=False) for id_ in lent]
        rows.billing += [
            BillingRow(n, each.id, each.version + 1, {Family.SUBSCRIPTION: {each.id: each.facts}})
            for each in self.subscriptions
            if each.is_written
        ]


class Recorder:
    """Writes to the ledger through one database.

    Args:
        queues_mail: whether it queues mails to donors, if the ledger knows since when (mail_start). An API process
            without mail configured saves the time for it.
    """

    def __init__(self, database: Database, *, queues_mail: bool = True) -> None:
        self._database = database
        self._prepare = self._prepared = _preparation(queues_mail=queues_mail)
        self._written = 0  # events
        self._planned_until = FIRST_GROWTH

    async def record(self, changes: Sequence[Change]) -> list[Outcome]:
        """Records events and operator actions and merges their facts, durably when it returns.

        An event whose facts the database rejects is recorded as failed, and does not prevent others from being applied.

        Returns:
            One outcome per change, in their order.

        Raises:
            DatabaseUnavailable: nothing is known to be written of what is not yet recorded; deliver it again.
            StatementRejected: the database rejects every statement (its schema or permissions are wrong), or
                this operator action.
        """
        recorded = _Recorded()
        await self._merge(changes, recorded)
        return recorded.outcomes(changes)

    async def known_facts(self, stated: Sequence[Facts]) -> list[KnownFacts]:
        """What is stored of the objects that facts name. What shares an id, directly or through stored rows, is in one
        element; a subscription, which shares none, is left out.

        Raises:
            DatabaseUnavailable, StatementRejected: as Database.fetch.
        """
        parts = await self._joined([ReadObjects(facts, "") for facts in stated])
        return [
            KnownFacts(
                merge({}, *(row.facts for row in part.stored)), merge({}, *(change.facts for change in part.changes))
            )
            for part in parts
        ]

    async def known_subscriptions(self, ids: Iterable[str]) -> dict[str, ObjectFacts]:
        """What is stored of some subscriptions, by id. Raises as `known_facts`."""
        rows = map(FoundSubscription._make, await self._fetch(FIND_SUBSCRIPTIONS, ids))
        return {row.id: msgspec.json.decode(row.facts)[Family.SUBSCRIPTION][row.id] for row in rows}

    async def known_payments(self, subscriptions: Iterable[str]) -> list[Facts]:
        """What is stored of the payments of some subscriptions. Raises as `known_facts`."""
        roots = {root for (root,) in await self._fetch(FIND_SUBSCRIPTION_PAYMENTS, subscriptions)}
        return [row.facts for row in await self._stored_rows(roots)]

    async def _isolate(self, changes: Sequence[Change], refusal: StatementRejected, recorded: _Recorded) -> None:
        """Finds the event that the database rejects, by halves, and records it as failed."""
        if len(changes) > 1:
            half = len(changes) // 2
            await self._merge(changes[:half], recorded)
            await self._merge(changes[half:], recorded)
            return
        [change] = changes
        if not isinstance(change, ReceivedEvent) or not change.facts:
            raise refusal
        failed = ReceivedEvent(msgspec.structs.replace(change.event, facts=None), str(refusal))
        await self._merge([failed], recorded)
        recorded.rejected[change.event.id] = str(refusal)

    async def _merge(self, changes: Sequence[Change], recorded: _Recorded) -> None:
        """Derives and writes, until no row was changed between reading and writing it."""
        pending = list(changes)
        for _ in range(ROUNDS):
            try:
                batch = await self._read([change for change in pending if change.facts or change.ids])
                written = await self._write(batch, pending)
            except DatabaseUnavailable as down:
                if down.kind != "conflict":
                    raise
                continue
            except StatementRejected as refusal:
                if not refusal.for_its_values:
                    raise
                await self._isolate(pending, refusal, recorded)
                return
            recorded.new.update(written.recorded)
            self._plan_again(len(written.recorded))
            pending = [change for n in written.conflicting for change in batch.groups[n].changes]
            if not pending:
                return
        raise DatabaseUnavailable("too much contention")

    def _plan_again(self, written: int) -> None:
        """Where so many more events make the ledger much larger, each connection prepares its statements again."""
        self._written += written
        if self._written >= self._planned_until:
            self._prepare = f"{self._prepared} -- for {self._written} events"
            self._planned_until = self._written * GROWTH

    async def _read(self, changes: Sequence[Change]) -> "_Batch":
        """Reads the stored rows of the changes' objects, and derives the donations with the changes."""
        parts = await self._parts(changes)
        own_changes = [change for change in changes if Family.SUBSCRIPTION in change.facts]
        lenders = await self._subscriptions(parts, own_changes)
        payments = await self._payments(parts, [each.id for each in lenders.values() if each.lent_changed])
        # A row may contain payments of other subscriptions too.
        lenders = await self._subscriptions(payments, []) | lenders
        # The entries of these payments are booked with the event that changed the subscription as their cause.
        for payment in payments:
            changed = (each for each in lenders.values() if each.id in payment.subscriptions and each.lent_changed)
            payment.cause = next((each.changes[-1] for each in changed), None)
        batch = _Batch(_groups([*parts, *payments], lenders), lenders)
        lent = {each.id: each.facts for each in lenders.values()}
        for group in batch.groups:
            for part in group.parts:
                part.derive(lent)
        return batch

    async def _parts(self, changes: Sequence[Change]) -> list[_Part]:
        """The parts of some changes, with the changes merged into the stored facts."""
        parts = await self._joined(changes)
        for part in parts:
            part.merge_changes()
        return parts

    async def _joined(self, changes: Sequence[Change]) -> list[_Part]:
        """Joins what shares an id, directly or through stored rows."""
        part_of: dict[str, _Part] = {}
        named = [(change, ids) for change in changes if (ids := change.ids)]
        for row in await self._stored_rows({id_ for _, ids in named for id_ in ids}):
            _join(part_of, row.ids).stored.append(row)
        for change, ids in named:
            _join(part_of, ids).changes.append(change)
        return list({id(part): part for part in part_of.values()}.values())

    async def _subscriptions(self, parts: Sequence[_Part], changes: Sequence[Change]) -> dict[str, _Subscription]:
        """The subscriptions that the parts borrow from, and those that have events of their own."""
        named = {id_ for part in parts for id_ in part.subscriptions}
        found = {
            id_: _Subscription(id_) for id_ in named.union(*(change.facts[Family.SUBSCRIPTION] for change in changes))
        }
        for row in map(FoundSubscription._make, await self._fetch(FIND_SUBSCRIPTIONS, found.keys())):
            each = found[row.id]
            each.version, each.facts = row.version, msgspec.json.decode(row.facts)[Family.SUBSCRIPTION][row.id]
        for change in changes:
            for id_ in change.facts[Family.SUBSCRIPTION]:
                found[id_].changes.append(change)
        for each in found.values():
            each.merge_changes()
        return found

    async def _payments(self, parts: Sequence[_Part], changed: list[str]) -> list[_Part]:
        """The parts of all payments whose subscription lends something else now, but for those among `parts`."""
        found = {root for (root,) in await self._fetch(FIND_SUBSCRIPTION_PAYMENTS, changed)}
        for part in parts:
            part.is_written |= not part.subscriptions.isdisjoint(changed)
            if any(row.root in found for row in part.stored):
                # Its row may have been read before it became a payment of the subscription. Then the row has another
                # version now, and what is written together with it is read again.
                part.subscriptions = part.subscriptions.union(changed)
        roots = [Derivation(root) for root in found.difference(row.root for part in parts for row in part.stored)]
        payments = await self._parts(roots)
        for payment in payments:
            payment.changes = []
        return payments

    async def _stored_rows(self, ids: set[str]) -> list[_StoredRow]:
        """The stored rows of these objects."""
        return [_StoredRow.of(FoundRow._make(row)) for row in await self._fetch(FIND_STORED, ids)]

    async def _fetch(self, statement: str, ids: Iterable[str]) -> list[Row]:
        """The rows that a statement finds for ids; without ids no statement is sent."""
        # Quoted, because `null` may be an id too; an id contains neither quotes nor backslashes.
        array = ",".join(f'"{id_}"' for id_ in ids)
        return await self._database.fetch(statement, ["{" + array + "}"], prepare=self._prepare) if array else []

    async def _write(self, batch: "_Batch", changes: Sequence[Change]) -> RecordedRow:
        """Writes the batch by one statement, the short one where it is enough."""
        rows = batch.rows(changes)
        params = rows.params()
        if rows.are_usual:
            found = await self._database.fetch(EXECUTE_SHORT, params[:USUAL_PARAMS], prepare=self._prepare)
        else:
            found = await self._database.fetch(EXECUTE, params, prepare=self._prepare)
        return RecordedRow._make(found[0])


@dataclass
class _Batch:
    """All that one statement writes: groups, by number, and the subscriptions that they borrow from."""

    groups: list[_Group]
    lenders: dict[str, _Subscription]

    def rows(self, changes: Sequence[Change]) -> WrittenRows:
        """What is to be written of the batch and of all its changes."""
        rows = WrittenRows()
        number: dict[int, int] = {}  # of the group of each change, by the change's identity
        for n, group in enumerate(self.groups):
            number.update((id(change), n) for change in group.changes)
            group.add_rows(n, rows, self.lenders)
        for change in changes:
            match change:
                case ReceivedEvent(event, error):
                    of = number.get(id(change))
                    rows.events.append(EventRow(of, event.id, event.type, event.created, event.livemode, error))
                case OperatorAction(action, donation, detail, actor, at_us):
                    rows.actions.append(ActionRow(number[id(change)], at_us, actor, action, donation, detail))
        return rows


def _preparation(*, queues_mail: bool) -> str:
    """What prepares the statements. The short one is without what only rare events need, which costs half of its time
    where it writes a single one."""
    record = RECORD if queues_mail else _without("mail", RECORD)
    return PREPARE.format(record=record, short=_without("rare", record))


def _without(mark: str, statement: str) -> str:
    return re.sub(rf"-- <{mark}>.*?-- </{mark}>\n", "", statement, flags=re.DOTALL)


def _join(part_of: dict[str, _Part], ids: set[str]) -> _Part:
    """The one part of everything that has these ids; parts that meet in them become one."""
    met = {id(part): part for id_ in ids if (part := part_of.get(id_))}
    joined, *others = met.values() or [_Part()]
    for other in others:
        joined.join(other)
        part_of.update(dict.fromkeys(other.ids, joined))
    joined.ids |= ids
    part_of.update(dict.fromkeys(ids, joined))
    return joined


def _groups(parts: Sequence[_Part], lenders: dict[str, _Subscription]) -> list[_Group]:
    """Which parts are written together.

    A part that borrows from a subscription for the first time writes the subscription as well: then a change of the
    subscription's ticket that is read at the same time, and does not know of this payment, finds another version.
    """
    group_of: dict[str, _Group] = {}
    groups: list[_Group] = []
    for part in parts:
        new = part.new_subscriptions if part.subscriptions and part.is_written else set()
        for id_ in new:
            lenders[id_].is_written = True
        written = new | {id_ for id_ in part.subscriptions if lenders[id_].lent_changed}
        if written:
            _join_group(group_of, groups, written).parts.append(part)
        else:
            groups.append(_Group([part]))
    for each in lenders.values():
        if each.is_written or each.changes:
            _join_group(group_of, groups, {each.id}).subscriptions.append(each)
    return [group for group in groups if group.parts or group.subscriptions]


def _join_group(group_of: dict[str, _Group], groups: list[_Group], subscriptions: set[str]) -> _Group:
    """The one group of everything that writes these subscriptions."""
    met = {id(group): group for id_ in subscriptions if (group := group_of.get(id_))}
    if not met:
        groups.append(_Group())
    joined, *others = met.values() or [groups[-1]]
    for other in others:
        joined.parts, other.parts = joined.parts + other.parts, []
        group_of.update({id_: joined for id_, group in group_of.items() if group is other})
    group_of.update(dict.fromkeys(subscriptions, joined))
    return joined

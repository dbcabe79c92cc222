"""Records events and operator actions: the only caller of the SQL that writes donations.

The stored rows of a batch's objects are read, merged with the batch and derived here, in Python, and written by one
statement that first checks that the rows are still those that were read. A donation whose rows were changed meanwhile
is not written; it is read and derived again. So no lock is held while this process computes, SQL contains none of
Stripe's rules, and the rules are plain Python that tests can compare with a model.

A *part* is everything that is tied together by the ids it names: usually one donation. A *group* is what must be
written together: usually one part; if a subscription's ticket changes, the subscription and all its payments.
"""

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
    merge_into,
    merge_object,
    object_ids,
    upgrade,
    value,
)
from daemon.ledger.operator_actions import OperatorAction
from daemon.ledger.stripe_events import StripeEvent
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
PREPARE = f"""
DEALLOCATE ALL;
SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off;
SET plan_cache_mode = force_generic_plan;
PREPARE find_stored AS {load("find_stored")};
PREPARE find_subscriptions AS {load("find_subscriptions")};
PREPARE find_subscription_payments AS {load("find_subscription_payments")};
PREPARE record_events AS {load("record_events")}
"""
FIND_STORED = "EXECUTE find_stored (%s)"
FIND_SUBSCRIPTIONS = "EXECUTE find_subscriptions (%s)"
FIND_SUBSCRIPTION_PAYMENTS = "EXECUTE find_subscription_payments (%s)"
EXECUTE = f"{load('lock_ledger')};\nEXECUTE record_events (%s, %s, %s, %s, %s, %s, %s, %s)"


class ReceivedEvent(msgspec.Struct, frozen=True):
    """One event to record. `error` is the scrubbed reason why it can't be applied, else None."""

    event: StripeEvent
    error: str | None = None

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


Change = ReceivedEvent | OperatorAction | Derivation


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


class WrittenRow(NamedTuple):
    """The row of record_events.sql: ids of events, and numbers of groups."""

    recorded: list[str]
    conflicting: list[int]


@dataclass
class _StoredRow:
    """A row with facts; version 0 for a failed charge that is kept apart from its donation."""

    root: str
    version: int
    facts: Facts
    entries_digest: int | None = None  # of its donations' entries in the journal; None if it is not known

    def __post_init__(self) -> None:
        self.ids = object_ids(self.facts)
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
        digest = None
        if row.rules == projection.RULES_VERSION and row.entries_digest is not None:
            digest = row.entries_digest ^ row.version
        return cls(row.root, row.version, upgrade(facts) if row.rules == 0 else facts, digest)


LENT = (FactName.TICKET, FactName.SESSION_TICKET, FactName.SESSION_REFERENCE)  # what a subscription lends its payments


@dataclass
class _Subscription:
    """A subscription's stored facts, and whether they are to be written. Version 0: none are stored yet."""

    id: str
    version: int = 0
    facts: ObjectFacts = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    is_written: bool = False
    ticket_changed: bool = False

    def merge_changes(self) -> None:
        """Merges its own events. A change of its ticket concerns all its payments."""
        before = self._lent()
        for change in self.changes:
            self.is_written |= merge_object(Family.SUBSCRIPTION, self.facts, change.facts[Family.SUBSCRIPTION][self.id])
        self.ticket_changed = before != self._lent()

    def _lent(self) -> list[object]:
        return [value(self.facts, name) for name in LENT]


@dataclass
class _Part:
    """Everything that is tied together by the ids it names: stored rows, changes, and the donations they add up to."""

    stored: list[_StoredRow] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    cause: Change | None = None
    ids: set[str] = field(default_factory=set)
    facts: Facts = field(default_factory=dict)
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
        self.cause = next(reversed(news or self.changes), None)
        is_one_row = sum(row.version > 0 for row in rows) == 1
        self.is_written = bool(self.facts) and (bool(news) or not is_one_row)

    @property
    def new_subscriptions(self) -> set[str]:
        """The subscriptions that it borrows from now, and no stored row did."""
        return projection.subscriptions(self.facts).difference(*(row.subscriptions for row in self.stored))

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

    def row(self, n: int) -> dict[str, object]:
        """As record_events.sql reads it."""
        if not self.is_written:
            return {"n": n, "root": "", "ids": (), "new_ids": (), "relocated_ids": ()}
        relocated = {id_ for row in self.stored if row.version and row.root != self.root for id_ in row.ids}
        new = self.ids.difference(*(row.ids for row in self.stored))
        row = {"n": n, "root": self.root, "ids": self.ids, "new_ids": new, "relocated_ids": relocated}
        return {**row, "booked_ids": self.booked_ids, **self._cause()} if self.booked_ids else row

    def _cause(self) -> dict[str, object]:
        """What its entries are booked for. An operator action has no id yet, and is named by its donation."""
        match self.cause:
            case ReceivedEvent(event):
                return {"cause": event.id}
            case OperatorAction(donation=donation):
                return {"action_on": donation}
        return {"cause": f"rebuild:{projection.RULES_VERSION}"}

    def donation_rows(self, n: int) -> list[dict[str, object]]:
        """As record_events.sql reads them: the facts stand on the root's row only."""
        return [
            {
                **msgspec.structs.asdict(donation),
                "n": n,
                "root": self.root,
                "rules": projection.RULES_VERSION,
                "version": self.version if donation.id == self.root else 0,
                "facts": self.facts if donation.id == self.root else None,
                "entries_digest": self.digest ^ self.version if donation.id == self.root else None,
            }
            for donation in self.donations
        ]

    def entry_rows(self, n: int) -> list[dict[str, object]]:
        """The entries of the donations whose entries may differ from the journal."""
        cause = self._cause()
        return [
            {
                "n": n,
                "donation": donation.id,
                "ticket": donation.ticket or "",
                "currency": donation.currency or "",
                **msgspec.structs.asdict(entry),
                **cause,
            }
            for donation, entries in self.entries
            for entry in entries
        ]

    def billing_rows(self, n: int) -> list[dict[str, object]]:
        """The row of an invoice without a payment, or its end when the payment is known."""
        if not self.is_written:
            return []
        if not self.donations:
            return [{"n": n, "id": self.root, "version": self.version, "facts": self.facts}]
        return [{"n": n, "id": row.root, "version": 0, "facts": None} for row in self.stored if row.is_invoice]

    def charge_rows(self, n: int) -> list[dict[str, object]]:
        """The failed charges that are kept apart from now on, and those that no longer are."""
        if not self.is_written:
            return []
        returned = {row.root for row in self.stored if row.version == 0} - self.failed_charges.keys()
        gone: list[dict[str, object]] = [{"n": n, "id": id_, "payment_intent": "", "facts": None} for id_ in returned]
        return gone + [
            {"n": n, "id": id_, "payment_intent": known[FactName.PAYMENT_INTENT][1], "facts": known}
            for id_, known in self.failed_charges.items()
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

    def bases(self, n: int, known: dict[str, _Subscription]) -> list[dict[str, object]]:
        """The rows and versions that it was derived from."""
        rows = [(row.root, row.version) for part in self.parts for row in part.stored if row.version]
        lenders = {id_ for part in self.parts if part.is_written for id_ in projection.subscriptions(part.facts)}
        lenders |= {each.id for each in self.subscriptions}
        rows += [(id_, known[id_].version) for id_ in lenders]
        return [{"n": n, "root": root, "version": version} for root, version in rows]

    def billing_rows(self, n: int) -> list[dict[str, object]]:
        """Its subscriptions, and its invoices without a payment."""
        written: list[dict[str, object]] = [
            {"n": n, "id": each.id, "version": each.version + 1, "facts": {Family.SUBSCRIPTION: {each.id: each.facts}}}
            for each in self.subscriptions
            if each.is_written
        ]
        return written + [row for part in self.parts for row in part.billing_rows(n)]


class Recorder:
    """Writes to the ledger through one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._prepare = PREPARE
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
            self._prepare = f"{PREPARE} -- for {self._written} events"
            self._planned_until = self._written * GROWTH

    async def _read(self, changes: Sequence[Change]) -> "_Batch":
        """Reads the stored rows of the changes' objects, and derives the donations with the changes."""
        parts = await self._parts([change for change in changes if change.ids])
        own_changes = [change for change in changes if Family.SUBSCRIPTION in change.facts]
        lenders = await self._subscriptions(parts, own_changes)
        payments = await self._payments(parts, [each.id for each in lenders.values() if each.ticket_changed])
        # A row may contain payments of other subscriptions too.
        lenders = await self._subscriptions(payments, []) | lenders
        # The entries of these payments are booked with the event that changed the subscription as their cause.
        for payment in payments:
            borrowed = projection.subscriptions(payment.facts)
            payment.cause = next(
                (each.changes[-1] for each in lenders.values() if each.id in borrowed and each.ticket_changed), None
            )
        batch = _Batch(_groups([*parts, *payments], lenders), lenders)
        lent = {each.id: each.facts for each in lenders.values()}
        for group in batch.groups:
            for part in group.parts:
                part.derive(lent)
        return batch

    async def _parts(self, changes: Sequence[Change]) -> list[_Part]:
        """Joins what shares an id, directly or through stored rows."""
        part_of: dict[str, _Part] = {}
        for row in await self._stored_rows({id_ for change in changes for id_ in change.ids}):
            _join(part_of, row.ids).stored.append(row)
        for change in changes:
            _join(part_of, change.ids).changes.append(change)
        parts = list({id(part): part for part in part_of.values()}.values())
        for part in parts:
            part.merge_changes()
        return parts

    async def _subscriptions(self, parts: Sequence[_Part], changes: Sequence[Change]) -> dict[str, _Subscription]:
        """The subscriptions that the parts borrow from, and those that have events of their own."""
        named = {id_ for part in parts for id_ in projection.subscriptions(part.facts)}
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
        """The parts of all payments whose subscription's ticket changed, without those that are among `parts`."""
        for part in parts:
            part.is_written |= not projection.subscriptions(part.facts).isdisjoint(changed)
        present = {row.root for part in parts for row in part.stored}
        roots = [
            Derivation(root)
            for (root,) in await self._fetch(FIND_SUBSCRIPTION_PAYMENTS, changed)
            if root not in present
        ]
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

    async def _write(self, batch: "_Batch", changes: Sequence[Change]) -> WrittenRow:
        """Writes the batch by one statement."""
        groups = batch.groups
        number = {id(change): n for n, group in enumerate(groups) for change in group.changes}
        parts = [(n, part) for n, group in enumerate(groups) for part in group.parts]
        arrays: tuple[list[dict[str, object]], ...] = (
            [part.row(n) for n, part in parts],
            [row for n, group in enumerate(groups) for row in group.bases(n, batch.lenders)],
            [row for n, part in parts for row in part.donation_rows(n)],
            [_event_row(c, number.get(id(c))) for c in changes if isinstance(c, ReceivedEvent)],
            [_action_row(c, number[id(c)]) for c in changes if isinstance(c, OperatorAction)],
            [row for n, group in enumerate(groups) for row in group.billing_rows(n)],
            [row for n, part in parts for row in part.charge_rows(n)],
            [row for n, part in parts for row in part.entry_rows(n)],
        )
        params = [msgspec.json.encode(array).decode() for array in arrays]
        [row] = await self._database.fetch(EXECUTE, params, prepare=self._prepare)
        return WrittenRow._make(row)


@dataclass
class _Batch:
    """All that one statement writes: groups, by number, and the subscriptions that they borrow from."""

    groups: list[_Group]
    lenders: dict[str, _Subscription]


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
        borrowed = projection.subscriptions(part.facts)
        new = part.new_subscriptions if borrowed and part.is_written else set()
        for id_ in new:
            lenders[id_].is_written = True
        written = new | {id_ for id_ in borrowed if lenders[id_].ticket_changed}
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


def _event_row(received: ReceivedEvent, n: int | None) -> dict[str, object]:
    event = received.event
    return {
        "id": event.id,
        "type": event.type,
        "created": event.created,
        "livemode": event.livemode,
        "error": received.error,
        "n": n,
    }


def _action_row(action: OperatorAction, n: int) -> dict[str, object]:
    return {**vars(action), "facts": None, "n": n}

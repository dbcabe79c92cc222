"""Records events and operator actions: the only caller of the SQL that writes donations.

The stored rows of a batch's objects are read, merged with the batch and derived here, in Python, and written by one
statement that first checks that the rows are still those that were read. A donation whose rows were changed meanwhile
is not written; it is read and derived again. So no lock is held while this process computes, SQL contains none of
Stripe's rules, and the rules are plain Python that tests can compare with a model.

A *part* is everything that is tied together by the ids it names: usually one donation. A *group* is what must be
written together: usually one part; if what a subscription lends changes, the subscription and all its payments.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from daemon.ledger.changes import Change, Derivation, Outcome, ReadObjects, ReceivedEvent, Recorded
from daemon.ledger.facts import Facts, Family, ObjectFacts, merge
from daemon.ledger.joined_parts import Part, join_ids
from daemon.ledger.prepared_statements import (
    EXECUTE,
    EXECUTE_SHORT,
    EXECUTE_WITH_BILLING,
    FIND_FAILED_CHARGES,
    FIND_STORED,
    FIND_SUBSCRIPTION_PAYMENTS,
    FIND_SUBSCRIPTIONS,
    FIRST_GROWTH,
    GROWTH,
    preparation,
)
from daemon.ledger.stored_rows import FoundRow, FoundSubscription, StoredRow
from daemon.ledger.subscriptions import Subscription, Subscriptions, named_subscriptions
from daemon.ledger.written_groups import Batch, group_parts
from sql.connection import Row
from sql.database import Database
from sql.errors import DatabaseUnavailable, StatementRejected

# Each round either writes a donation or reads what another process has just written. More rounds than this mean that
# other processes write the same donations all the time: Stripe delivers the event again.
ROUNDS = 20


class KnownFacts(NamedTuple):
    """Facts of some objects: those that are stored, and those that are compared with them."""

    stored: Facts
    stated: Facts


class RecordedRow(NamedTuple):
    """The row of record_events.sql: ids of events, and numbers of groups."""

    recorded: list[str]
    conflicting: list[int]


class Recorder:
    """Writes to the ledger through one database.

    Args:
        queues_mail: whether it queues mails to donors, if the ledger knows since when (mail_start). An API process
            without mail configured saves the time for it.
    """

    def __init__(self, database: Database, *, queues_mail: bool = True) -> None:
        self._database = database
        self._prepare = self._prepared = preparation(queues_mail=queues_mail)
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
        recorded = Recorded()
        await self._merge(changes, recorded)
        return recorded.outcomes(changes)

    async def known_facts(self, stated: Sequence[Facts]) -> list[KnownFacts]:
        """What is stored of the objects that facts name. What shares an id, directly or through stored rows, is in one
        element; a subscription, which shares none, is left out.

        Raises:
            DatabaseUnavailable, StatementRejected: as Database.fetch.
        """
        parts, _ = await self._joined([ReadObjects(facts, "") for facts in stated])
        return [
            KnownFacts(
                merge({}, *(row.facts for row in part.stored)), merge({}, *(change.facts for change in part.changes))
            )
            for part in parts
        ]

    async def known_subscriptions(self, ids: Iterable[str]) -> dict[str, ObjectFacts]:
        """What is stored of some subscriptions, by id. Raises as `known_facts`."""
        return {each.id: each.facts for each in (await self._subscriptions(ids)).values() if each.version}

    async def known_payments(self, subscriptions: Iterable[str]) -> list[Facts]:
        """What is stored of the payments of some subscriptions. Raises as `known_facts`."""
        roots = {root for (root,) in await self._fetch(FIND_SUBSCRIPTION_PAYMENTS, subscriptions)}
        return [row.facts for row in await self._stored_rows(roots)]

    async def _isolate(self, changes: Sequence[Change], refusal: StatementRejected, recorded: Recorded) -> None:
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

    async def _merge(self, changes: Sequence[Change], recorded: Recorded) -> None:
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

    async def _read(self, changes: Sequence[Change]) -> Batch:
        """Reads the stored rows of the changes' objects, and derives the donations with the changes."""
        parts, found = await self._parts(changes)
        own_changes = [change for change in changes if Family.SUBSCRIPTION in change.facts]
        lenders = await self._lenders(parts, found, own_changes)
        payments, found = await self._payments(parts, [each for each in lenders.values() if each.lent_changed])
        # A row may contain payments of other subscriptions too.
        lenders = await self._lenders(payments, found, []) | lenders
        # The entries of these payments are booked with the event that changed the subscription as their cause.
        for payment in payments:
            changed = (each for each in lenders.values() if each.id in payment.subscriptions and each.lent_changed)
            payment.cause = next((each.changes[-1] for each in changed), None)
        batch = Batch(group_parts([*parts, *payments], lenders), lenders)
        lent = {each.id: each.facts for each in lenders.values()}
        for group in batch.groups:
            for part in group.parts:
                part.derive(lent)
        return batch

    async def _parts(self, changes: Sequence[Change]) -> tuple[list[Part], Subscriptions]:
        """The parts of some changes, with the changes merged into the stored facts, and the subscriptions found."""
        parts, found = await self._joined(changes)
        for part in parts:
            part.merge_changes()
            if part.lost_attempts:
                part.add_attempts(await self._failed_charges(part.lost_attempts))
        return parts, found

    async def _joined(self, changes: Sequence[Change]) -> tuple[list[Part], Subscriptions]:
        """Joins what shares an id, directly or through stored rows. The subscriptions that it may belong to are looked
        up by the same statement."""
        part_of: dict[str, Part] = {}
        named = [(change, ids) for change in changes if (ids := change.ids)]
        found = {id_: Subscription(id_) for change in changes for id_ in named_subscriptions(change.facts)}
        for row in await self._stored_rows({id_ for _, ids in named for id_ in ids}, found):
            if row.facts.keys() == {Family.SUBSCRIPTION}:
                found[row.root] = Subscription(row.root, row.version, row.facts[Family.SUBSCRIPTION][row.root])
            else:
                join_ids(part_of, row.ids).stored.append(row)
        for change, ids in named:
            join_ids(part_of, ids).changes.append(change)
        return list({id(part): part for part in part_of.values()}.values()), found

    async def _lenders(self, parts: Sequence[Part], found: Subscriptions, changes: Sequence[Change]) -> Subscriptions:
        """The subscriptions that the parts borrow from, and those that have events of their own.

        Args:
            found: those that were looked up already.
        """
        named = {id_ for part in parts for id_ in part.subscriptions}
        named.update(*(change.facts[Family.SUBSCRIPTION] for change in changes))
        found = found | await self._subscriptions(named - found.keys())
        lenders = {id_: found[id_] for id_ in named}
        for change in changes:
            for id_ in change.facts[Family.SUBSCRIPTION]:
                lenders[id_].changes.append(change)
        for each in lenders.values():
            each.merge_changes()
        return lenders

    async def _payments(
        self, parts: Sequence[Part], lenders: Sequence[Subscription]
    ) -> tuple[list[Part], Subscriptions]:
        """The parts of all payments whose subscription lends something else now, but for those among `parts`, and the
        subscriptions found. A payment is never stored before its subscription."""
        changed = {each.id for each in lenders}
        stored = [each.id for each in lenders if each.version]
        found = {root for (root,) in await self._fetch(FIND_SUBSCRIPTION_PAYMENTS, stored)}
        for part in parts:
            part.is_written |= not part.subscriptions.isdisjoint(changed)
            if any(row.root in found for row in part.stored):
                # Its row may have been read before it became a payment of the subscription. Then the row has another
                # version now, and what is written together with it is read again.
                part.subscriptions = part.subscriptions.union(changed)
        roots = [Derivation(root) for root in found.difference(row.root for part in parts for row in part.stored)]
        payments, subscriptions = await self._parts(roots)
        for payment in payments:
            payment.changes = []
        return payments, subscriptions

    async def _stored_rows(self, ids: Iterable[str], subscriptions: Iterable[str] = ()) -> list[StoredRow]:
        """The stored rows of these objects and subscriptions, and of the subscriptions that the objects belong to."""
        return [StoredRow.of(FoundRow._make(row)) for row in await self._fetch(FIND_STORED, ids, subscriptions)]

    async def _failed_charges(self, payment_intents: Iterable[str]) -> list[StoredRow]:
        """The failed charges of these PaymentIntents that are kept apart."""
        return [StoredRow.of(FoundRow._make(row)) for row in await self._fetch(FIND_FAILED_CHARGES, payment_intents)]

    async def _subscriptions(self, ids: Iterable[str]) -> Subscriptions:
        """What is stored of some subscriptions."""
        found = {id_: Subscription(id_) for id_ in ids}
        for row in map(FoundSubscription._make, await self._fetch(FIND_SUBSCRIPTIONS, found)):
            facts = msgspec.json.decode(row.facts)[Family.SUBSCRIPTION][row.id]
            found[row.id] = Subscription(row.id, row.version, facts)
        return found

    async def _fetch(self, statement: str, *ids: Iterable[str]) -> list[Row]:
        """The rows that a statement finds for lists of ids; without any id no statement is sent."""
        # Quoted, because `null` may be an id too; an id contains neither quotes nor backslashes.
        arrays = [",".join(f'"{id_}"' for id_ in each) for each in ids]
        if not any(arrays):
            return []
        return await self._database.fetch(statement, [f"{{{array}}}" for array in arrays], prepare=self._prepare)

    async def _write(self, batch: Batch, changes: Sequence[Change]) -> RecordedRow:
        """Writes the batch by one statement, the shortest that is enough."""
        rows = batch.rows(changes)
        statement = EXECUTE
        if rows.are_usual:
            statement = EXECUTE_WITH_BILLING if rows.billing else EXECUTE_SHORT
        params = rows.params()[: statement.count("%s")]
        [found] = await self._database.fetch(statement, params, prepare=self._prepare)
        return RecordedRow._make(found)

"""What a dry run has in place of a recorder: it writes nothing, and remembers what the run would have recorded.

Several of Stripe's lists name the same payment. A run that corrects finds what it recorded when it reads the next list;
a dry run finds it here, so that both list the same differences.
"""

from collections.abc import Iterable, Sequence

from daemon.ledger.changes import APPLIED, Change, Outcome, ReadObjects
from daemon.ledger.facts import Facts, Family, ObjectFacts, merge, merge_into, object_ids
from daemon.ledger.kept_facts import redact
from daemon.ledger.projection import subscriptions as borrowed_from
from daemon.ledger.recorder import KnownFacts, Recorder
from sql.database import Database


class DryRunRecorder(Recorder):
    """A recorder of Stripe's objects that keeps in memory what it is to record: the facts of what differs."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._kept_groups: dict[str, Facts] = {}  # by the id of each object in a group
        self._kept_subscriptions: Facts = {Family.SUBSCRIPTION: {}}

    async def record(self, changes: Sequence[Change]) -> list[Outcome]:
        """Keeps the facts of objects. Raises as `known_facts`."""
        facts = [change.facts for change in changes if isinstance(change, ReadObjects)]
        for group in await self.known_facts(facts):
            whole = redact(merge(group.stored, group.stated))
            self._kept_groups.update(dict.fromkeys(object_ids(whole), whole))
        for each in facts:
            merge_into(self._kept_subscriptions, {Family.SUBSCRIPTION: each.get(Family.SUBSCRIPTION, {})})
        return [APPLIED] * len(changes)

    async def known_facts(self, stated: Sequence[Facts]) -> list[KnownFacts]:
        """What is stored or kept of the objects that facts name. Raises DatabaseUnavailable or StatementRejected."""
        groups = await super().known_facts(stated)
        if kept := [facts for group in groups for facts in self._kept(group)]:  # these may join two groups
            groups = await super().known_facts([*stated, *kept])
        return [KnownFacts(redact(merge(group.stored, *self._kept(group))), group.stated) for group in groups]

    async def known_subscriptions(self, ids: Iterable[str]) -> dict[str, ObjectFacts]:
        """What is stored or kept of some subscriptions, by id. Raises as `known_facts`."""
        wanted = set(ids)
        stored: Facts = {Family.SUBSCRIPTION: await super().known_subscriptions(wanted)}
        found = merge(stored, self._kept_subscriptions)[Family.SUBSCRIPTION]
        return {id_: facts for id_, facts in found.items() if id_ in wanted}

    async def known_payments(self, subscriptions: Iterable[str]) -> list[Facts]:
        """What is stored or kept of the payments of some subscriptions. Raises as `known_facts`."""
        wanted = set(subscriptions)
        kept = [facts for facts in self._kept_groups.values() if not wanted.isdisjoint(borrowed_from(facts))]
        groups = await self.known_facts([*await super().known_payments(wanted), *kept])
        return [group.stored for group in groups]

    def _kept(self, group: KnownFacts) -> list[Facts]:
        ids = object_ids(group.stored) | object_ids(group.stated)
        return list({id(facts): facts for id_ in ids if (facts := self._kept_groups.get(id_))}.values())

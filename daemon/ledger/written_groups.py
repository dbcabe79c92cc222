"""A *group*: what must be written together. It is usually one part; if what a subscription lends changes, it is the
subscription and all its payments.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from daemon.ledger.changes import Change, ReceivedEvent
from daemon.ledger.facts import Family
from daemon.ledger.joined_parts import Part
from daemon.ledger.operator_actions import OperatorAction
from daemon.ledger.subscriptions import Subscription, Subscriptions
from daemon.ledger.written_rows import ActionRow, BaseRow, BillingRow, EventRow, WrittenRows


@dataclass
class Group:
    """What is written together or not at all."""

    parts: list[Part] = field(default_factory=list)
    subscriptions: list[Subscription] = field(default_factory=list)  # those to be written

    @property
    def changes(self) -> list[Change]:
        """The changes that wait for it."""
        of_parts = [change for part in self.parts for change in part.changes]
        return of_parts + [change for each in self.subscriptions for change in each.changes]

    def add_rows(self, n: int, rows: WrittenRows, lenders: Subscriptions) -> None:
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


@dataclass
class Batch:
    """All that one statement writes: groups, by number, and the subscriptions that they borrow from."""

    groups: list[Group]
    lenders: Subscriptions

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


def group_parts(parts: Sequence[Part], lenders: Subscriptions) -> list[Group]:
    """Which parts are written together.

    A part that borrows from a subscription for the first time writes the subscription as well: then a change of the
    subscription's ticket that is read at the same time, and does not know of this payment, finds another version.
    """
    group_of: dict[str, Group] = {}
    groups: list[Group] = []
    for part in parts:
        new = part.new_subscriptions if part.subscriptions and part.is_written else set()
        for id_ in new:
            lenders[id_].is_written = True
        written = new | {id_ for id_ in part.subscriptions if lenders[id_].lent_changed}
        if written:
            _join_group(group_of, groups, written).parts.append(part)
        else:
            groups.append(Group([part]))
    for each in lenders.values():
        if each.is_written or each.changes:
            _join_group(group_of, groups, {each.id}).subscriptions.append(each)
    return [group for group in groups if group.parts or group.subscriptions]


def _join_group(group_of: dict[str, Group], groups: list[Group], subscriptions: set[str]) -> Group:
    """The one group of everything that writes these subscriptions."""
    met = {id(group): group for id_ in subscriptions if (group := group_of.get(id_))}
    if not met:
        groups.append(Group())
    joined, *others = met.values() or [groups[-1]]
    for other in others:
        joined.parts, other.parts = joined.parts + other.parts, []
        group_of.update({id_: joined for id_, group in group_of.items() if group is other})
    group_of.update(dict.fromkeys(subscriptions, joined))
    return joined

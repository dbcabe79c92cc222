"""Subscriptions while a batch is recorded: what they lend their payments, and the events that change it."""

from dataclasses import dataclass, field

from daemon.ledger.changes import Change
from daemon.ledger.facts import SHARED, FactName, Facts, Family, ObjectFacts, merge_object, value

# What a subscription lends its payments.
LENT = (
    FactName.TICKET,
    FactName.SESSION_TICKET,
    FactName.SESSION_REFERENCE,
    FactName.SESSION_SHOW_NAME,
)


@dataclass
class Subscription:
    """A subscription's stored facts, and whether they are to be written. Version 0: none are stored yet."""

    id: str
    version: int = 0
    facts: ObjectFacts = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    is_written: bool = False
    lent_changed: bool = False

    def merge_changes(self) -> None:
        """Merges its own events. A change of what it lends concerns all its payments."""
        if not self.changes:
            return
        before = self._lent()
        for change in self.changes:
            self.is_written |= merge_object(Family.SUBSCRIPTION, self.facts, change.facts[Family.SUBSCRIPTION][self.id])
        self.lent_changed = before != self._lent()

    def _lent(self) -> list[object]:
        return [FactName.CONSENT_WITHDRAWN in self.facts, *(value(self.facts, name) for name in LENT)]


Subscriptions = dict[str, Subscription]  # by id


def named_subscriptions(facts: Facts) -> set[str]:
    """The ids of the subscriptions in these facts, and of those that their invoices name."""
    if SHARED.isdisjoint(facts):  # nearly always
        return set()
    invoices = facts.get(Family.INVOICE, {}).values()
    return {
        *facts.get(Family.SUBSCRIPTION, ()),
        *(known[FactName.SUBSCRIPTION][1] for known in invoices if FactName.SUBSCRIPTION in known),
    }

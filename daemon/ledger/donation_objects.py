"""Pure: the Stripe objects of one donation, their order, and where the value of a field comes from (SPEC 3).

In this file `objects` are the Stripe objects of one donation, and `known` is the facts of one object. SOURCES contains
the order of precedence; the diagram of deploy/docs/explanation.md is drawn from it and from STATUSES in projection.py.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from daemon.ledger.facts import SHARED, FactName, Facts, Family, ObjectFacts, owners, value

# Where the value of a field comes from: the first of these sources (a family and a fact) that has one. SORT_KEY orders
# the objects of a family. The invoice is the one that the donation pays; the subscription is the invoice's.
Field = Literal["ticket", "amount", "currency", "last_name", "country", "email_hash", "consent"]
SOURCES: dict[Field, tuple[tuple[Family, FactName], ...]] = {
    "ticket": (
        (Family.OPERATOR, FactName.ASSIGNED),
        (Family.PAYMENT_INTENT, FactName.TICKET),
        (Family.CHARGE, FactName.TICKET),
        (Family.INVOICE, FactName.TICKET),
        (Family.SUBSCRIPTION, FactName.TICKET),
        (Family.SESSION, FactName.TICKET),
        (Family.SUBSCRIPTION, FactName.SESSION_TICKET),
        (Family.SESSION, FactName.REFERENCE),
        (Family.SUBSCRIPTION, FactName.SESSION_REFERENCE),
    ),
    "amount": (
        (Family.CHARGE, FactName.TAKEN),
        (Family.PAYMENT_INTENT, FactName.RECEIVED),
        (Family.SESSION, FactName.AMOUNT),
        (Family.PAYMENT_INTENT, FactName.AMOUNT),
        (Family.CHARGE, FactName.AMOUNT),
    ),
    "currency": (
        (Family.CHARGE, FactName.CURRENCY),
        (Family.PAYMENT_INTENT, FactName.CURRENCY),
        (Family.SESSION, FactName.CURRENCY),
        (Family.REFUND, FactName.CURRENCY),
        (Family.DISPUTE, FactName.CURRENCY),
    ),
    "last_name": (
        (Family.CHARGE, FactName.LAST_NAME),
        (Family.SESSION, FactName.LAST_NAME),
        (Family.INVOICE, FactName.LAST_NAME),
    ),
    "country": ((Family.CHARGE, FactName.COUNTRY), (Family.SESSION, FactName.COUNTRY)),
    "email_hash": (
        (Family.CHARGE, FactName.EMAIL_HASH),
        (Family.PAYMENT_INTENT, FactName.EMAIL_HASH),
        (Family.SESSION, FactName.EMAIL_HASH),
        (Family.INVOICE, FactName.EMAIL_HASH),
    ),
    "consent": ((Family.SESSION, FactName.SHOW_NAME), (Family.SUBSCRIPTION, FactName.SESSION_SHOW_NAME)),
}

NEVER = 2**63  # sorts after every time: an object whose `created` is not known was not the first

Subscriptions = Mapping[str, ObjectFacts]  # by id


Member = tuple[str, ObjectFacts]  # an object's id and its facts


class Objects:
    """One donation's Stripe objects, by family, in the order of SORT_KEY."""

    __slots__ = ("every", "members")

    def __init__(self) -> None:
        self.members: dict[Family, list[Member]] = {family: [] for family in SORT_KEY}
        self.every: list[ObjectFacts] = []

    def add(self, family: Family, id_: str, known: ObjectFacts) -> None:
        """Adds an object; also as one of the family OPERATOR if an operator has assigned it to a ticket."""
        self.members[family].append((id_, known))
        if family not in SHARED:
            self.every.append(known)
        if FactName.ASSIGNED in known:
            self.members[Family.OPERATOR].append((id_, known))

    def sort(self) -> None:
        """Sorts the objects of each family by SORT_KEY, and keeps only the first of several sessions."""
        for family, members in self.members.items():
            if len(members) > 1:
                members.sort(key=SORT_KEY[family], reverse=family != Family.SESSION)
        del self.members[Family.SESSION][1:]

    def add_invoice(self, facts: Facts, subscriptions: Subscriptions) -> None:
        """Adds the invoice that the donation pays, and that invoice's subscription."""
        invoice = self.first(Family.PAYMENT_INTENT, FactName.INVOICE) or self.first(Family.CHARGE, FactName.INVOICE)
        if invoice is None:
            return
        known = facts.get(Family.INVOICE, {}).get(invoice, {})
        self.add(Family.INVOICE, invoice, known)
        if subscription := value(known, FactName.SUBSCRIPTION):
            self.add(Family.SUBSCRIPTION, subscription, subscriptions.get(subscription, {}))

    def winning_object(self, field: Field) -> tuple[ObjectFacts, Any]:
        """The first object that has a value for a field of SOURCES, and the value; ({}, None) if none has."""
        for family, name in SOURCES[field]:
            for _, known in self.members[family]:
                if name in known:
                    return known, known[name][1]
        return {}, None

    def value(self, field: Field) -> Any:
        """The value of a field of SOURCES."""
        return self.winning_object(field)[1]

    def first(self, family: Family, name: FactName) -> Any:
        """The value of a fact with the rule NEWEST, of the first object of a family that has it, or None."""
        for _, known in self.members[family]:
            if name in known:
                return known[name][1]
        return None

    def states_any(self, *families: Family, name: FactName) -> bool:
        """Whether any object of these families states this fact."""
        return any(name in known for family in families for _, known in self.members[family])


def holds_money(charge: ObjectFacts) -> bool:
    """Whether a charge took money and has not failed afterwards (SPEC 3, paidAt)."""
    return FactName.CAPTURED in charge and value(charge, FactName.STATUS) != "failed"


def is_late_failure(charge: ObjectFacts) -> bool:
    """Whether a charge took money and has failed afterwards, as a bank debit that is returned does."""
    return FactName.TAKEN in charge and value(charge, FactName.STATUS) == "failed"


def failed_late(charge: ObjectFacts) -> bool:
    """Whether it is a late failure with a known time: a release before rules_version 1 did not store the time."""
    return is_late_failure(charge) and FactName.FAILED in charge


def _created_first(member: Member) -> tuple[int, str]:
    created = value(member[1], FactName.CREATED)
    return NEVER if created is None else created, member[0]


def _captured_then_latest(member: Member) -> tuple[bool, int, str]:
    return holds_money(member[1]), value(member[1], FactName.CREATED) or 0, member[0]


def _newest_currency(member: Member) -> tuple[list[Any], str]:
    return member[1].get(FactName.CURRENCY, [0, ""]), member[0]


# The order of the objects of a family; the largest key comes first, for sessions the smallest. Of charges the one that
# captured money comes first, then the one created later, then the greater id; of sessions the one created first; of the
# assignments of operators the newest. A donation has at most one invoice and one subscription.
SORT_KEY: dict[Family, Callable[[Member], Any]] = {
    Family.PAYMENT_INTENT: lambda member: member[0],
    Family.SESSION: _created_first,
    Family.CHARGE: _captured_then_latest,
    Family.REFUND: _newest_currency,
    Family.DISPUTE: _newest_currency,
    Family.OPERATOR: lambda member: member[1][FactName.ASSIGNED],
    Family.INVOICE: lambda member: member[0],
    Family.SUBSCRIPTION: lambda member: member[0],
}


def by_donation(facts: Facts, subscriptions: Subscriptions) -> dict[str, Objects]:
    """The objects of every donation in these facts, by its id."""
    owner = owners(facts)
    grouped: dict[str, Objects] = {}
    for family, members in facts.items():
        if family in SHARED:
            continue
        for id_, known in members.items():
            if (objects := grouped.get(owner[id_])) is None:
                objects = grouped[owner[id_]] = Objects()
            objects.add(family, id_, known)
    for objects in grouped.values():
        objects.sort()
        objects.add_invoice(facts, subscriptions)
    return grouped

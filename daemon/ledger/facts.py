"""Pure: the facts of Stripe's objects, and how they are merged in any order (SPEC 3).

Facts are kept per object, under the object's family and id:

    {"pi": {"pi_1": {"amount": [1700000000, 5000], "paid": 1700000000, "captures": {"5000": 1700000000}}}, "ch": {...}}

A time is the `created` of an event, in Unix seconds. Most facts are a pair of a time and a value ("amount"), some are
only a time ("paid"), some are a map ("captures"). RULES names for each fact the rule by which two versions of it are
merged. Merging is commutative, associative and idempotent, so retries, duplicates, reordering and batches need no code
of their own. `stripe_events.py` reads facts from events, `projection.py` derives donations from them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, TypedDict

import msgspec

if TYPE_CHECKING:
    from enum import StrEnum as _Names
else:
    # For the type checker the two classes below are enums, so that a misspelt name is an error. When the program runs,
    # their members are plain strings: in Python 3.11 reading a member of an enum takes 0.2 µs, an event reads more than
    # fifty members, and a plain string is also found faster in a dictionary.
    class _Names: ...


class Family(_Names):
    """The kinds of Stripe objects, by the names under which their facts are stored.

    OPERATOR is not a kind of object and is never stored. In the order of sources (projection.py) it represents what an
    operator decided about an object of any family.
    """

    PAYMENT_INTENT = "pi"
    SESSION = "cs"
    CHARGE = "ch"
    REFUND = "re"
    DISPUTE = "dp"
    INVOICE = "in"
    SUBSCRIPTION = "sub"
    OPERATOR = "op"


class FactName(_Names):
    """The facts of an object, by the names under which they are stored. RULES lists which family has which.

    A "snapshot" is the object as one event contains it.
    """

    ACCOUNT = "account"  # the connected account that the event came from
    AMOUNT = "amount"
    ASSIGNED = "assigned"  # the ticket that an operator chose, with the time of the assignment in microseconds
    CANCELED = "canceled"  # when: by the earliest event
    CAPTURED = "captured"  # the time of the earliest snapshot in which the charge had taken money
    CAPTURES = "captures"  # for each amount captured (or received): the time when it was first reached
    CHARGE = "charge"
    CONSENT_WITHDRAWN = "consent_withdrawn"  # when: by an operator or the donor, in microseconds
    COUNTRY = "country"
    CREATED = "created"
    CURRENCY = "currency"
    EMAIL_HASH = "email_hash"
    ERASED = "erased"  # when an operator erased the donor, in microseconds
    EXPIRED = "expired"  # when: by the earliest event
    FAILED = "failed"  # when: by the earliest event
    FLAG = "flag"  # a charge's field `captured`, true or false
    HISTORY = "history"  # for each status of a dispute: its amount at the earliest and at the newest event
    INVOICE = "invoice"
    LAST_NAME = "last_name"
    NOT_TAKEN = "not_taken"  # the time of the earliest snapshot in which the charge had taken no money
    PAID = "paid"  # when: by the earliest event
    PAID_LAST = "paid_last"  # when: by the newest event
    PAYMENT_INTENT = "payment_intent"
    RECEIVED = "received"  # a PaymentIntent's `amount_received`
    RECEIVED_FIRST = "received_first"  # the time of the earliest snapshot in which it was above zero
    RECEIVED_LAST = "received_last"  # the time of the newest such snapshot
    REFERENCE = "reference"  # a session's `client_reference_id`, if it is a ticket id
    REFUND_EVENTS = "refund_events"  # for each amount refunded: the time of the earliest `charge.refunded`
    REFUND_SEEN = "refund_seen"  # the time of the earliest `charge.refunded`, as rules_version 0 stored it
    REFUNDS = "refunds"  # for each amount refunded: the time of the earliest snapshot
    RETURNED = "returned"  # a charge's `amount_refunded`
    SNAPSHOTS = "snapshots"  # for each second with a refunded amount: the second, and the largest such amount
    RETURNED_LEAST = "returned_least"  # the smallest `amount_refunded` after a capture
    SEEN = "seen"  # the time of the earliest event that named the object
    SESSION_REFERENCE = "session_reference"  # of a subscription: REFERENCE of the session that created it
    SESSION_SHOW_NAME = "session_show_name"  # of a subscription: SHOW_NAME of the session that created it
    SESSION_TICKET = "session_ticket"  # of a subscription: TICKET of the session that created it
    SHOW_NAME = "show_name"  # of a session: 1 if the donor chose that the name is shown, 0 if not
    STAGE = "stage"  # of a dispute: the rank of its status (RANKS), its amount, its status
    STATE = "state"  # of a dispute: what rules_version 0 stored in the place of STAGE
    STATUS = "status"
    SUBSCRIPTION = "subscription"
    TAKEN = "taken"  # a charge's captured amount
    TICKET = "ticket"
    WARNINGS = "warnings"  # of a charge, for each early fraud warning: whether it is closed, when it was made, its kind


# Pairs are lists and not tuples, because that is what JSON is decoded to.
Fact = list[Any] | int | dict[str, Any]
ObjectFacts = dict[FactName, Any]
Facts = dict[Family, dict[str, ObjectFacts]]


class Rule(Enum):
    """How two versions of one fact are merged."""

    NEWEST = "a pair of a time and a value: the greater pair is kept, so the newest value"
    FIRST = "a number, nearly always a time: the smaller number is kept, so the earliest time"


NEWEST, FIRST = Rule.NEWEST, Rule.FIRST


@dataclass(frozen=True)
class PerKey:
    """The rule of a map: the values of each key are merged by the rule `each`."""

    each: "Rule | PerKey"


_OF_EVERY_DONATION = {
    FactName.SEEN: FIRST,
    FactName.ACCOUNT: NEWEST,
    FactName.ASSIGNED: NEWEST,
    FactName.CONSENT_WITHDRAWN: FIRST,
}
_OF_A_DONOR = {
    FactName.LAST_NAME: NEWEST,
    FactName.COUNTRY: NEWEST,
    FactName.EMAIL_HASH: NEWEST,
    FactName.ERASED: FIRST,
}
_OF_MONEY = {FactName.AMOUNT: NEWEST, FactName.CURRENCY: NEWEST, FactName.CREATED: NEWEST}
_OF_A_CHILD = {FactName.PAYMENT_INTENT: NEWEST, FactName.CHARGE: NEWEST}

RULES: dict[Family, dict[FactName, Rule | PerKey]] = {
    Family.PAYMENT_INTENT: {
        **_OF_EVERY_DONATION,
        **_OF_MONEY,
        FactName.EMAIL_HASH: NEWEST,
        FactName.ERASED: FIRST,
        FactName.TICKET: NEWEST,
        FactName.INVOICE: NEWEST,
        FactName.RECEIVED: NEWEST,
        FactName.RECEIVED_FIRST: FIRST,
        FactName.RECEIVED_LAST: NEWEST,
        FactName.CAPTURES: PerKey(FIRST),
        FactName.PAID: FIRST,
        FactName.PAID_LAST: NEWEST,
        FactName.FAILED: FIRST,
        FactName.CANCELED: FIRST,
    },
    Family.SESSION: {
        **_OF_EVERY_DONATION,
        **_OF_MONEY,
        **_OF_A_DONOR,
        FactName.PAYMENT_INTENT: NEWEST,
        FactName.TICKET: NEWEST,
        FactName.REFERENCE: NEWEST,
        FactName.SHOW_NAME: NEWEST,
        FactName.PAID: FIRST,
        FactName.PAID_LAST: NEWEST,
        FactName.FAILED: FIRST,
        FactName.EXPIRED: FIRST,
    },
    Family.CHARGE: {
        **_OF_EVERY_DONATION,
        **_OF_MONEY,
        **_OF_A_DONOR,
        FactName.PAYMENT_INTENT: NEWEST,
        FactName.INVOICE: NEWEST,
        FactName.TICKET: NEWEST,
        FactName.STATUS: NEWEST,
        FactName.FLAG: NEWEST,
        FactName.TAKEN: NEWEST,
        FactName.RETURNED: NEWEST,
        FactName.RETURNED_LEAST: FIRST,
        FactName.CAPTURED: FIRST,
        FactName.NOT_TAKEN: FIRST,
        FactName.CAPTURES: PerKey(FIRST),
        FactName.REFUNDS: PerKey(FIRST),
        FactName.SNAPSHOTS: PerKey(NEWEST),
        FactName.REFUND_EVENTS: PerKey(FIRST),
        FactName.REFUND_SEEN: FIRST,
        FactName.PAID: FIRST,
        FactName.FAILED: FIRST,
        FactName.WARNINGS: PerKey(NEWEST),
    },
    Family.REFUND: {**_OF_EVERY_DONATION, **_OF_MONEY, **_OF_A_CHILD, FactName.FAILED: FIRST},
    Family.DISPUTE: {
        **_OF_EVERY_DONATION,
        **_OF_A_CHILD,
        FactName.CURRENCY: NEWEST,
        FactName.STAGE: NEWEST,
        FactName.STATE: NEWEST,
        FactName.HISTORY: PerKey(PerKey(NEWEST)),
    },
    Family.INVOICE: {
        FactName.ACCOUNT: NEWEST,
        FactName.SUBSCRIPTION: NEWEST,
        FactName.TICKET: NEWEST,
        FactName.LAST_NAME: NEWEST,
        FactName.EMAIL_HASH: NEWEST,
        FactName.ERASED: FIRST,
    },
    Family.SUBSCRIPTION: {
        FactName.ACCOUNT: NEWEST,
        FactName.TICKET: NEWEST,
        FactName.SESSION_TICKET: NEWEST,
        FactName.SESSION_REFERENCE: NEWEST,
        FactName.SESSION_SHOW_NAME: NEWEST,
        FactName.CONSENT_WITHDRAWN: FIRST,
    },
}

# The facts about a person: they are removed when an operator erases the donor.
DONOR_FIELDS = frozenset({FactName.LAST_NAME, FactName.COUNTRY, FactName.EMAIL_HASH})

# Families whose objects belong to no donation, because several donations can use one: they only supply a ticket and a
# donor.
SHARED = frozenset({Family.INVOICE, Family.SUBSCRIPTION})

ID_PATTERN = r"^[A-Za-z0-9_]{1,255}\Z"  # of Stripe's objects
# Nine digits or more, and nothing else, could be a telephone or card number.
TICKET_PATTERN = r"^(?![0-9]{9,}\Z)[A-Za-z0-9_-]{1,64}\Z"

# The statuses of a dispute in ascending order (SPEC 3): of two states with the same time the later one is kept.
DISPUTE_STAGES = (
    "warning_needs_response",
    "warning_under_review",
    "warning_closed",
    "needs_response",
    "under_review",
    "appeal_needs_response",
    "appeal_under_review",
    "charge_refunded",
    "prevented",
    "lost",
    "won",
)
# The rank of a status that this list does not have, because Stripe may add some: after the appeals, and before the
# statuses that end a dispute.
STAGE_OF_UNKNOWN = DISPUTE_STAGES.index("appeal_under_review") + 1
RANKS = {status: stage if stage < STAGE_OF_UNKNOWN else stage + 1 for stage, status in enumerate(DISPUTE_STAGES)}

# The dispute statuses by the numbers as which rules_version 0 stored them.
FORMER_STAGES = (
    "warning_needs_response",
    "warning_under_review",
    "warning_closed",
    "needs_response",
    "under_review",
    "charge_refunded",
    "prevented",
    "lost",
    "won",
)


def merge(facts: Facts, *more: Facts) -> Facts:
    """All of these facts merged, as a new object."""
    result: Facts = {}
    for each in (facts, *more):
        merge_into(result, each)
    return result


def merge_into(facts: Facts, more: Facts) -> bool:
    """Merges `more` into `facts`. Returns whether anything was new."""
    is_new = False
    for family, objects in more.items():
        stored = facts.setdefault(family, {})
        for id_, object_facts in objects.items():
            if id_ not in stored:
                stored[id_] = {}
                is_new = True
            if merge_object(family, stored[id_], object_facts):
                is_new = True
    return is_new


def merge_object(family: Family, stored: ObjectFacts, more: ObjectFacts) -> bool:
    """Merges one object's facts into `stored`. Returns whether anything was new."""
    return _merge_facts(stored, more, RULES.get(family, {}))


def _merge_facts(stored: dict[Any, Any], more: dict[Any, Any], rules: Mapping[Any, Rule | PerKey]) -> bool:
    is_new = False
    for name, fact in more.items():
        rule = rules.get(name) or _rule_by_form(fact)
        present = stored.get(name)
        if isinstance(rule, PerKey):
            is_new |= _merge_facts(stored.setdefault(name, {}), fact, dict.fromkeys(fact, rule.each))
        elif present is None or (fact > present if rule is NEWEST else fact < present):
            stored[name] = fact
            is_new = True
    return is_new


def _rule_by_form(fact: Fact) -> Rule | PerKey:
    """The rule of a fact that this release does not know: a newer release stored it, and must find it again."""
    if isinstance(fact, dict):
        return PerKey(_rule_by_form(next(iter(fact.values()), 0)))
    return FIRST if isinstance(fact, int) else NEWEST


def upgrade(facts: Facts) -> Facts:
    """Changes facts that rules_version 0 stored to the form of today, and returns them.

    It did not know appeals, and stored a number in the place of a dispute's status.
    """
    for dispute in facts.get(Family.DISPUTE, {}).values():
        former = dispute.pop(FactName.STATE, None)
        if isinstance(former, list):
            at, (stage, amount) = former
            status = FORMER_STAGES[stage]
            merge_object(Family.DISPUTE, dispute, {FactName.STAGE: [at, [RANKS[status], amount, status]]})
    return facts


def _form(rule: Rule | PerKey) -> Any:
    """The type of a fact with this rule, as msgspec checks it."""
    if isinstance(rule, PerKey):
        return dict[str, _form(rule.each)]  # type: ignore[misc]
    return int if rule is FIRST else tuple[int, Any]


def _forms() -> Any:
    """The type of all facts, as msgspec checks it. Facts that only a newer release knows are not checked."""
    families: dict[str, Any] = {}
    for family, rules in RULES.items():
        forms = {str(name): _form(rule) for name, rule in rules.items()}
        families[family] = dict[str, TypedDict(f"Facts of {family}", forms, total=False)]  # type: ignore
    return TypedDict("Facts", families, total=False)  # type: ignore


_FORMS = _forms()


def checked(stored: object) -> Facts:
    """Stored facts, if each has the form that its rule needs. Raises ValueError otherwise."""
    facts = msgspec.convert(stored, dict[str, dict[str, dict[str, list[Any] | int | dict[str, Any]]]])
    msgspec.convert(facts, _FORMS)
    return facts  # type: ignore[return-value]


def object_ids(facts: Facts) -> set[str]:
    """The ids by which facts belong to one group: of all objects in them except subscriptions, which several donations
    share, and of the early fraud warnings of charges."""
    ids = {id_ for family, objects in facts.items() if family != Family.SUBSCRIPTION for id_ in objects}
    for charge in facts.get(Family.CHARGE, {}).values():
        if FactName.WARNINGS in charge:
            ids.update(charge[FactName.WARNINGS])
    return ids


def owners(facts: Facts) -> dict[str, str]:
    """Object id -> id of the donation it belongs to: its PaymentIntent, otherwise its session, otherwise its charge.

    An early fraud warning belongs to its charge's donation; invoices and subscriptions belong to none.
    """
    owner = {id_: id_ for id_ in facts.get(Family.PAYMENT_INTENT, {})}
    children: dict[str, str] = {}
    for family in (Family.SESSION, Family.CHARGE):
        for id_, object_facts in facts.get(family, {}).items():
            owner[id_] = value(object_facts, FactName.PAYMENT_INTENT) or id_
            if FactName.WARNINGS in object_facts:
                children.update(dict.fromkeys(object_facts[FactName.WARNINGS], owner[id_]))
    for family in (Family.REFUND, Family.DISPUTE):
        for id_, object_facts in facts.get(family, {}).items():
            charge = value(object_facts, FactName.CHARGE)
            children[id_] = value(object_facts, FactName.PAYMENT_INTENT) or owner.get(charge, charge)
    # Children are added at the end: if one had the id of a charge, the order would otherwise decide about the others.
    return owner | children


def value(facts: ObjectFacts, name: FactName) -> Any:
    """The value of a fact with the rule NEWEST, or None if the facts do not contain it."""
    fact = facts.get(name)
    return None if fact is None else fact[1]

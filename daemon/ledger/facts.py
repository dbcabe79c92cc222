"""Pure: the facts of Stripe's objects, and how they are merged in any order.

Facts are kept per object, under the object's family and id:

    {"pi": {"pi_1": {"amount": [1700000000, 5000], "paid": 1700000000, "captures": {"5000": 1700000000}}}, "ch": {...}}

RULES says of each fact how two statements of it are merged. Merging is commutative, associative and idempotent, so
retries, duplicates, reordering and batches need no code of their own. `stripe_events.py` reads facts from events,
`projection.py` derives donations from them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, TypedDict

import msgspec

if TYPE_CHECKING:
    from enum import StrEnum as _Names
else:
    # To the type checker the two classes below are enums, so that a misspelt name is an error. When the program runs,
    # their members are the plain strings: in Python 3.11 reading a member of an enum takes 0.2 µs, an event reads more
    # than fifty, and looking a plain string up is faster too.
    class _Names: ...


class Family(_Names):
    """The kinds of Stripe objects, by the names under which their facts are stored.

    OPERATOR is no kind of object and is never stored: it stands for what an operator stated about any object.
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
    """The facts of an object, by the names under which they are stored. RULES says which family has which."""

    ACCOUNT = "account"  # the connected account that the event came from
    AMOUNT = "amount"
    ASSIGNED = "assigned"  # by an operator: the ticket
    CANCELED = "canceled"
    CAPTURED = "captured"  # a snapshot in which the charge had taken money
    CAPTURES = "captures"  # per amount captured (or received): when it was first reached
    CHARGE = "charge"
    COUNTRY = "country"
    CREATED = "created"
    CURRENCY = "currency"
    EMAIL_HASH = "email_hash"
    ERASED = "erased"  # by an operator
    EXPIRED = "expired"
    FAILED = "failed"
    FLAG = "flag"  # a charge's `captured`
    HISTORY = "history"  # per status of a dispute: its amount at the earliest and at the newest event
    INVOICE = "invoice"
    LAST_NAME = "last_name"
    NOT_TAKEN = "not_taken"  # a snapshot in which the charge had taken no money
    PAID = "paid"
    PAID_LAST = "paid_last"
    PAYMENT_INTENT = "payment_intent"
    RECEIVED = "received"  # a PaymentIntent's `amount_received`
    RECEIVED_FIRST = "received_first"
    RECEIVED_LAST = "received_last"
    REFERENCE = "reference"  # a session's `client_reference_id`, if it is a ticket id
    REFUND_EVENTS = "refund_events"  # per amount refunded: the earliest `charge.refunded`
    REFUND_SEEN = "refund_seen"  # the earliest `charge.refunded`, as rules_version 0 stored it
    REFUNDS = "refunds"  # per amount refunded: the earliest snapshot
    RETURNED = "returned"  # a charge's `amount_refunded`
    RETURNED_LEAST = "returned_least"  # the smallest `amount_refunded` after a capture
    SEEN = "seen"  # the earliest event that named the object
    SESSION_REFERENCE = "session_reference"  # of a subscription: from the session that began it
    SESSION_TICKET = "session_ticket"  # of a subscription: from the session that began it
    STAGE = "stage"  # of a dispute: the rank of its status, its amount, its status
    STATE = "state"  # of a dispute: as rules_version 0 stored it
    STATUS = "status"
    SUBSCRIPTION = "subscription"
    TAKEN = "taken"  # a charge's captured amount
    TICKET = "ticket"


# Lists and objects, because that is what JSON gives back.
Fact = list[Any] | int | dict[str, Any]
ObjectFacts = dict[FactName, Any]
Facts = dict[Family, dict[str, ObjectFacts]]


class Rule(Enum):
    """How two statements of one fact are merged."""

    NEWEST = "a pair of the event's `created` and a value: the greater pair stands"
    FIRST = "a number, mostly the event's `created`: the smaller one stands; that it exists is all that some facts say"


NEWEST, FIRST = Rule.NEWEST, Rule.FIRST


@dataclass(frozen=True)
class PerKey:
    """A map of facts, each merged by itself."""

    each: "Rule | PerKey"


_OF_EVERY_DONATION = {FactName.SEEN: FIRST, FactName.ACCOUNT: NEWEST, FactName.ASSIGNED: NEWEST}
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
        FactName.REFUND_EVENTS: PerKey(FIRST),
        FactName.REFUND_SEEN: FIRST,
        FactName.PAID: FIRST,
        FactName.FAILED: FIRST,
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
    },
}

# The facts about a person, which erasing takes away.
DONOR_FIELDS = frozenset({FactName.LAST_NAME, FactName.COUNTRY, FactName.EMAIL_HASH})

# Families of objects that no donation is made of: they only lend it their ticket and donor.
SHARED = frozenset({Family.INVOICE, Family.SUBSCRIPTION})

ID_PATTERN = r"^[A-Za-z0-9_]{1,255}\Z"
TICKET_PATTERN = r"^(?![0-9]{9,}\Z)[A-Za-z0-9_-]{1,64}\Z"

# Dispute statuses in rising stages (SPEC 3): among states of one second the later stage stands.
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
# A status that Stripe may add later ranks after the appeals and before what ends a dispute.
STAGE_OF_UNKNOWN = DISPUTE_STAGES.index("appeal_under_review") + 1
RANKS = {status: stage if stage < STAGE_OF_UNKNOWN else stage + 1 for stage, status in enumerate(DISPUTE_STAGES)}

# The dispute statuses of facts that rules_version 0 stored, by the number it stored them as.
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
    """All of them merged, as a new object."""
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
    """The rule of a fact that a newer release has stored: returning to this one must lose nothing."""
    if isinstance(fact, dict):
        return PerKey(_rule_by_form(next(iter(fact.values()), 0)))
    return FIRST if isinstance(fact, int) else NEWEST


def upgrade(facts: Facts) -> Facts:
    """Facts as rules_version 0 stored them, in today's form: it knew no appeals, and numbered a dispute's stages."""
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
    """The type of all facts, as msgspec checks it. It looks at no fact that only a newer release knows."""
    families: dict[str, Any] = {}
    for family, rules in RULES.items():
        forms = {str(name): _form(rule) for name, rule in rules.items()}
        families[family] = dict[str, TypedDict(f"Facts of {family}", forms, total=False)]  # type: ignore
    return TypedDict("Facts", families, total=False)  # type: ignore


_FORMS = _forms()


def checked(stored: object) -> Facts:
    """Facts as they are stored, if each has the form that its rule asks for. Raises ValueError otherwise."""
    facts = msgspec.convert(stored, dict[str, dict[str, dict[str, list[Any] | int | dict[str, Any]]]])
    msgspec.convert(facts, _FORMS)
    return facts  # type: ignore[return-value]


def object_ids(facts: Facts) -> set[str]:
    """The ids of all objects that the facts name and that tie facts to one donation: subscriptions do not."""
    return {id_ for family, objects in facts.items() if family != Family.SUBSCRIPTION for id_ in objects}


def owners(facts: Facts) -> dict[str, str]:
    """Object id -> id of the donation it belongs to: its PaymentIntent, else the session, else the charge.

    Invoices have no owner: they lend what they state to the object that paid them.
    """
    owner = {id_: id_ for id_ in facts.get(Family.PAYMENT_INTENT, {})}
    for family in (Family.SESSION, Family.CHARGE):
        owner.update(
            {id_: value(known, FactName.PAYMENT_INTENT) or id_ for id_, known in facts.get(family, {}).items()}
        )
    children = {
        id_: value(known, FactName.PAYMENT_INTENT) or owner.get(charge := value(known, FactName.CHARGE), charge)
        for family in (Family.REFUND, Family.DISPUTE)
        for id_, known in facts.get(family, {}).items()
    }
    return owner | children  # all at once: even where ids of two families are the same, no order decides


def value(facts: ObjectFacts, name: FactName) -> Any:
    """The value of a newest fact, or None."""
    fact = facts.get(name)
    return None if fact is None else fact[1]

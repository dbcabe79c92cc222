"""Pure: what happened to one donation, in order: its facts, the changes of its status, its journal entries (SPEC 9).

A status change is derived again for each second: whether money was kept from the movements so far, the rest from the
facts that were known. A newer value of a fact takes the place of an older one, so what only an older value showed is
not in the timeline.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from msgspec import Struct

from daemon.ledger import donation_objects, journal, projection
from daemon.ledger.donation import Donation
from daemon.ledger.facts import FactName, Facts, Family, ObjectFacts, owners
from daemon.ledger.journal import JournalEntry

NAMES = {
    Family.PAYMENT_INTENT: "PaymentIntent",
    Family.SESSION: "session",
    Family.CHARGE: "charge",
    Family.REFUND: "refund",
    Family.DISPUTE: "dispute",
    Family.INVOICE: "invoice",
    Family.SUBSCRIPTION: "subscription",
}
# Facts of an operator carry microseconds.
IN_MICROSECONDS = frozenset({FactName.ASSIGNED, FactName.CONSENT_WITHDRAWN, FactName.ERASED})
# The smallest amount that a charge returned carries no time at all.
WITHOUT_TIME = frozenset({FactName.RETURNED_LEAST})
# What an object is from its first event on, although a later event may have stated it again.
LASTING = WITHOUT_TIME | {
    *(FactName.PAYMENT_INTENT, FactName.CHARGE, FactName.INVOICE),
    *(FactName.AMOUNT, FactName.CURRENCY, FactName.CREATED),
}


class BookedEntry(NamedTuple):
    """A row of donation_entries.sql."""

    seq: int
    recorded_at: datetime
    effective_at: int
    donation_id: str
    ticket_id: str
    currency: str
    kind: str
    object_id: str
    amount_minor: int
    cause: str


class BookedTransaction(NamedTuple):
    """A row of donation_transactions.sql: a change of the account's balance, in minor units of `currency`."""

    id: str
    at: int
    category: str
    source: str
    currency: str
    amount_minor: int
    fee_minor: int
    net_minor: int
    exchange_rate: str | None
    payout: str | None


class Item(Struct, frozen=True, omit_defaults=True):
    """One line of a timeline: a fact of an object, a new status of the donation, a journal entry, or a change of the
    account's balance with its fee.

    `at` is in Unix seconds: of the event that stated a fact, of a status change, of an entry's movement, of a balance
    transaction.
    """

    at: int
    kind: str  # fact, status, entry or fee
    source: str  # the object that states it, with its family; the donation of a status; the kind and object of an entry
    name: str
    value: Any = None
    entry: BookedEntry | None = None
    transaction: BookedTransaction | None = None


def timeline(
    donation: str,
    facts: Facts,
    subscriptions: donation_objects.Subscriptions,
    entries: Iterable[BookedEntry],
    transactions: Iterable[BookedTransaction] = (),
) -> list[Item]:
    """Everything that is known of a donation, in the order of time; at one second facts, then status, then entries,
    then fees.

    Args:
        donation: its id.
        facts: of the row that keeps the donation's facts.
        subscriptions: the facts of the subscriptions from which the donation takes its ticket and consent.
    """
    own = _own_facts(donation, facts, subscriptions)
    items = [*_facts(own), *_statuses(donation, subscriptions, own), *map(_entry, entries), *map(_fee, transactions)]
    order = {"fact": 0, "status": 1, "entry": 2, "fee": 3}
    return sorted(items, key=lambda item: (item.at, order[item.kind], item.entry.seq if item.entry else 0))


def booked_ids(donation: str, facts: Facts) -> set[str]:
    """The ids under which entries of a donation may be booked: its own, and those that it had."""
    owner = owners(facts)
    return {id_ for id_ in projection.donation_ids(facts) if owner[id_] == donation}


def _own_facts(donation: str, facts: Facts, subscriptions: donation_objects.Subscriptions) -> Facts:
    """The facts of the donation's objects, of the invoice that it pays, and of its subscription."""
    owner = owners(facts)
    objects = donation_objects.by_donation(facts, subscriptions)[donation]
    own: Facts = {}
    for family, known in facts.items():
        if mine := {id_: each for id_, each in known.items() if owner.get(id_) == donation}:
            own[family] = mine
    for family in (Family.INVOICE, Family.SUBSCRIPTION):
        if borrowed := dict(objects.members[family]):
            own[family] = borrowed
    return own


def _facts(facts: Facts) -> Iterator[Item]:
    for family, objects in facts.items():
        for id_, known in objects.items():
            for name, fact in known.items():
                for at, detail, shown in _statements(name, fact):
                    yield Item(at, "fact", f"{NAMES[family]} {id_}", f"{name} {detail}".strip(), shown)


def _statements(name: FactName, fact: Any) -> Iterator[tuple[int, str, Any]]:
    """Each statement of a fact: its time, what distinguishes it from others of the same fact, and its value."""
    if name in WITHOUT_TIME:
        return
    if name == FactName.HISTORY:  # of each status the earliest and the newest event, which may be the same
        for status, kept in fact.items():
            for at, amount in {abs(at): amount for at, amount in kept.values()}.items():
                yield at, status, amount
    elif name == FactName.WARNINGS:
        for warning, (at, (is_closed, _made_at, kind)) in fact.items():
            yield at, warning, [kind, "closed" if is_closed else "open"]
    elif name == FactName.SNAPSHOTS:
        for at, returned in fact.values():
            yield at, "", returned
    elif isinstance(fact, dict):
        for amount, at in fact.items():
            yield at, amount, None
    else:
        at, shown = fact if isinstance(fact, list) else (fact, None)
        yield at // (1_000_000 if name in IN_MICROSECONDS else 1), "", shown


def _statuses(donation: str, subscriptions: donation_objects.Subscriptions, own: Facts) -> Iterator[Item]:
    """The donation's status at each second in which a fact was stated or money moved, where it is another than
    before."""
    [(_, entries)] = [
        found for found in journal.derive(_without_subscription(own), subscriptions) if found[0].id == donation
    ]
    before = None
    for at in sorted({item.at for item in _facts(own)} | {entry.at for entry in entries}):
        known = _without_subscription({family: _known_at(objects, at) for family, objects in own.items()})
        objects = donation_objects.by_donation(known, subscriptions).get(donation, donation_objects.Objects())
        if not objects.every and all(entry.at > at for entry in entries):
            continue  # only its subscription or its invoice was known
        status = projection.status_of(objects, _money_at(projection.derive(donation, objects), entries, at))
        if status != before:
            before = status
            yield Item(at, "status", donation, str(status))


def _without_subscription(facts: Facts) -> Facts:
    return {family: objects for family, objects in facts.items() if family != Family.SUBSCRIPTION}


def _money_at(derived: Donation, entries: Sequence[JournalEntry], at: int) -> projection.Money:
    """The figures at the end of a second: by the movements so far, or by the facts of a donation without movements."""
    if not entries:
        return projection.Money(derived.amount, derived.refunded, derived.paid_at)
    sums = dict.fromkeys(journal.KINDS, 0)
    for entry in entries:
        if entry.at <= at:
            sums[entry.kind] += entry.amount
    return projection.Money(sums["payment"], sums["refund"], at if sums["payment"] else None)


def _known_at(objects: dict[str, ObjectFacts], at: int) -> dict[str, ObjectFacts]:
    """What was known of some objects at the end of a second."""
    known = {id_: _facts_at(facts, at) for id_, facts in objects.items()}
    return {id_: facts for id_, facts in known.items() if facts}


def _facts_at(facts: ObjectFacts, at: int) -> ObjectFacts:
    """What was known of an object, nothing before its first event; older amounts come from the maps that are kept."""
    known = {name: fact for name, fact in facts.items() if any(since <= at for since, *_ in _statements(name, fact))}
    if not known:
        return {}
    known |= {name: fact for name, fact in facts.items() if name in LASTING}
    for name, kept in ((FactName.TAKEN, FactName.CAPTURES), (FactName.RETURNED, FactName.REFUNDS)):
        amounts = [[since, int(amount)] for amount, since in facts.get(kept, {}).items() if since <= at]
        if amounts and name in facts and name not in known:
            known[name] = max(amounts)
    states = {since: state for since, state in journal.states(facts).items() if since <= at}
    if states:
        known[FactName.STAGE] = [max(states), states[max(states)]]
    return known


def _entry(entry: BookedEntry) -> Item:
    return Item(entry.effective_at, "entry", f"{entry.kind} {entry.object_id}", entry.cause, entry.amount_minor, entry)


def _fee(row: BookedTransaction) -> Item:
    return Item(row.at, "fee", f"{row.category} {row.source}", row.id, transaction=row)

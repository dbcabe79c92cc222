"""Pure: how donations are derived from merged facts (SPEC 3).

`donations` derives everything that is shown. SOURCES and STATUSES contain the order of precedence; the diagram of
deploy/docs/explanation.md is drawn from them. In this file `objects` are the Stripe objects of one donation, and
`known` is the facts of one object.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec

from daemon.ledger.donation import Donation, Status
from daemon.ledger.facts import (
    DONOR_FIELDS,
    RANKS,
    SHARED,
    STAGE_OF_UNKNOWN,
    FactName,
    Facts,
    Family,
    ObjectFacts,
    owners,
    value,
)

# The version of the rules in this file and in facts.py. It rises when a stored row would be derived differently, with
# a migration that lists the rows of older rules (SPEC 9, rebuild).
RULES_VERSION = 3  # 2: the journal's entries; 3: consent

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

# The ranks of the statuses in which Stripe has taken the disputed amount from the charity.
TAKES_MONEY = frozenset(
    {
        STAGE_OF_UNKNOWN,
        *(
            RANKS[status]
            for status in ("needs_response", "under_review", "appeal_needs_response", "appeal_under_review", "lost")
        ),
    }
)
# The ranks of the statuses in which a donation is DISPUTED: an inquiry takes no money.
IS_DISPUTED = TAKES_MONEY | {RANKS["warning_needs_response"], RANKS["warning_under_review"]}

NEVER = 2**63  # sorts after every time: an object whose `created` is not known was not the first

Subscriptions = Mapping[str, ObjectFacts]  # by id


def donation_ids(facts: Facts) -> set[str]:
    """The ids that a donation of these facts has, or may have had before more of them were known."""
    return {id_ for family in (Family.PAYMENT_INTENT, Family.SESSION, Family.CHARGE) for id_ in facts.get(family, ())}


def is_one_donation(facts: Facts, id_: str) -> bool:
    """Whether these are the facts of one PaymentIntent, and of sessions and charges that name it."""
    return facts.get(Family.PAYMENT_INTENT, {}).keys() == {id_} and all(
        value(known, FactName.PAYMENT_INTENT) == id_
        for family in (Family.SESSION, Family.CHARGE)
        for known in facts.get(family, {}).values()
    )


def subscriptions(facts: Facts) -> set[str]:
    """The ids of the subscriptions from which donations in these facts can take their ticket.

    Only an invoice that a PaymentIntent or charge names leads to one.
    """
    if Family.INVOICE not in facts:  # nearly always
        return set()
    return {id_ for objects in by_donation(facts, {}).values() for id_, _ in objects.members[Family.SUBSCRIPTION]}


def subscriptions_of(facts: Facts, donation: str) -> list[str]:
    """The id of the subscription that a donation is a payment of; none for a single gift."""
    return [id_ for id_, _ in by_donation(facts, {})[donation].members[Family.SUBSCRIPTION]]


def donor_objects(facts: Facts) -> dict[str, list[tuple[Family, str, ObjectFacts]]]:
    """Donation id -> its objects that can contain facts about the donor: family, id and facts.

    An invoice whose payment is not known yet has an entry under its own id.
    """
    owner = owners(facts)
    found: dict[str, list[tuple[Family, str, ObjectFacts]]] = {}
    for family in (Family.PAYMENT_INTENT, Family.SESSION, Family.CHARGE):
        for id_, known in facts.get(family, {}).items():
            found.setdefault(owner[id_], []).append((family, id_, known))
    unpaid = dict(facts.get(Family.INVOICE, {}))
    for donation, objects in by_donation(facts, {}).items():
        for id_, known in objects.members[Family.INVOICE]:
            found.setdefault(donation, []).append((Family.INVOICE, id_, known))
            unpaid.pop(id_, None)
    return found | {id_: [(Family.INVOICE, id_, known)] for id_, known in unpaid.items()}


def donations(facts: Facts, lent: Subscriptions | None = None) -> list[Donation]:
    """All donations in these facts, in the order of their ids.

    It is usually one. Facts of several donations are kept together if one session has named several PaymentIntents, and
    the facts of an invoice that is not paid yet make no donation.

    Args:
        lent: the facts of the subscriptions that the invoices name.
    """
    return [derive(id_, objects) for id_, objects in sorted(by_donation(facts, lent or {}).items())]


def redact(facts: Facts) -> Facts:
    """Facts without the donor facts that must not be kept (SPEC 7).

    1. Those of failed charges: people who test stolen cards use other people's names. This must not depend on other
       facts, because what is removed here cannot be added again.
    2. Those of each donation whose donor was erased, so that a redelivered event cannot bring them back. All objects of
       such a donation are marked as erased; an object stays so if it is later found to belong to another donation.
    """
    for charge in facts.get(Family.CHARGE, {}).values():
        if FactName.FAILED in charge:
            for name in DONOR_FIELDS:
                charge.pop(name, None)
    marks: list[Any] = [
        known[FactName.ERASED] for members in facts.values() for known in members.values() if FactName.ERASED in known
    ]
    if not marks:
        return facts
    at: int = min(marks)
    erased = {
        id_
        for objects in donor_objects(facts).values()
        if any(FactName.ERASED in known for _, _, known in objects)
        for _, id_, _ in objects
    }
    return {
        family: {
            id_: _without_donor(known, at) if FactName.ERASED in known or id_ in erased else known
            for id_, known in objects.items()
        }
        for family, objects in facts.items()
    }


def _without_donor(known: ObjectFacts, at: int) -> ObjectFacts:
    return {FactName.ERASED: at, **{name: fact for name, fact in known.items() if name not in DONOR_FIELDS}}


# The facts of a failed charge that can be shown, if no later charge of its PaymentIntent states them.
SUPPLIED = (
    FactName.AMOUNT,
    FactName.RETURNED,
    FactName.CURRENCY,
    FactName.CREATED,
    FactName.TICKET,
    FactName.INVOICE,
    FactName.ACCOUNT,
)
# A charge with one of these facts is always needed, whatever other charges state: it took money, was refunded, or was
# reported as fraud.
STATES_MONEY = frozenset({FactName.TAKEN, FactName.REFUND_EVENTS, FactName.REFUND_SEEN, FactName.WARNINGS})
# So is a charge about which an operator or the donor decided something.
STATED_BY_PEOPLE = frozenset({FactName.ASSIGNED, FactName.CONSENT_WITHDRAWN})


def split_attempts(facts: Facts) -> tuple[Facts, dict[str, ObjectFacts]]:
    """Facts without the failed charges that cannot change the donation any more, and these charges.

    This keeps the facts of a PaymentIntent small: a person who tests stolen cards makes a thousand attempts. In the
    order of SORT_KEY a charge that never took money comes after each later charge. So it is needed only for a fact that
    no later failed charge states, and the later charge keeps its facts and its place whatever happens to it: the result
    does not depend on the order of events. The facts of the removed charges are stored elsewhere, and are read again
    when an event names the charge.
    """
    charges = facts.get(Family.CHARGE, {})
    if len(charges) < 2:
        return facts, {}
    referenced = {
        value(child, FactName.CHARGE)
        for family in (Family.REFUND, Family.DISPUTE)
        for child in facts.get(family, {}).values()
    }
    removed: dict[str, ObjectFacts] = {}
    stated_by_later: dict[str, set[str]] = {}  # by PaymentIntent
    for id_, known in sorted(charges.items(), key=SORT_KEY[Family.CHARGE], reverse=True):
        intent = value(known, FactName.PAYMENT_INTENT)
        if intent is None or id_ in referenced or not _is_failed_attempt(known):
            continue
        by_later = stated_by_later.setdefault(intent, set())
        stated = {name for name in SUPPLIED if name in known}
        if STATED_BY_PEOPLE.isdisjoint(known) and FactName.CREATED in stated and stated <= by_later:
            removed[id_] = known
        by_later |= stated
    if not removed:
        return facts, {}
    kept = {id_: known for id_, known in charges.items() if id_ not in removed}
    return {**facts, Family.CHARGE: kept}, removed


def _is_failed_attempt(charge: ObjectFacts) -> bool:
    return value(charge, FactName.STATUS) == "failed" and STATES_MONEY.isdisjoint(charge)


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

    def add_invoice(self, facts: Facts, lent: Subscriptions) -> None:
        """Adds the invoice that the donation pays, and that invoice's subscription."""
        invoice = self.first(Family.PAYMENT_INTENT, FactName.INVOICE) or self.first(Family.CHARGE, FactName.INVOICE)
        if invoice is None:
            return
        known = facts.get(Family.INVOICE, {}).get(invoice, {})
        self.add(Family.INVOICE, invoice, known)
        if subscription := value(known, FactName.SUBSCRIPTION):
            self.add(Family.SUBSCRIPTION, subscription, lent.get(subscription, {}))

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


def by_donation(facts: Facts, lent: Subscriptions) -> dict[str, Objects]:
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
        objects.add_invoice(facts, lent)
    return grouped


def derive(id_: str, objects: Objects) -> Donation:
    """The donation with this id, which consists of these objects."""
    amount, currency = _amount(objects)
    refunded, refunded_at = _refunded(objects, amount)
    paid_at = _paid_at(objects)
    is_paid = paid_at is not None
    return Donation(
        id=id_,
        ticket=objects.value("ticket"),
        status=status_of(objects, Money(amount, refunded, paid_at)),
        amount=amount,
        currency=currency,
        refunded=refunded,
        disputed=_disputed(objects, amount, currency, refunded),
        created_at=_created_at(objects),
        paid_at=paid_at,
        refunded_at=refunded_at,
        last_name=objects.value("last_name") if is_paid else None,
        country=objects.value("country") if is_paid else None,
        email_hash=objects.value("email_hash"),
        session_id=objects.members[Family.SESSION][0][0] if objects.members[Family.SESSION] else None,
        charge_id=objects.members[Family.CHARGE][0][0] if objects.members[Family.CHARGE] else None,
        account=_account(objects),
        subscription=objects.members[Family.SUBSCRIPTION][0][0] if objects.members[Family.SUBSCRIPTION] else None,
        consent=_consent(objects),
    )


# A consent ends for good when it is withdrawn, and when the donor is erased.
ENDS_CONSENT = frozenset({FactName.CONSENT_WITHDRAWN, FactName.ERASED})


def _consent(objects: Objects) -> bool:
    """Whether the donor's name may be shown (SPEC 3, consent)."""
    if not objects.value("consent"):
        return False
    lent = [known for _, known in objects.members[Family.SUBSCRIPTION]]
    return all(ENDS_CONSENT.isdisjoint(known) for known in (*objects.every, *lent))


def _refunded(objects: Objects, amount: int | None) -> tuple[int, int | None]:
    """The refunded amount, and since when it is not zero."""
    charges = objects.members[Family.CHARGE]
    if not objects.members[Family.REFUND] and not any(value(known, FactName.RETURNED) for _, known in charges):
        return 0, None  # nearly always
    refunds = Refunds.of(objects)
    refunded = refunds.total(amount)
    return refunded, _refunded_at(objects, refunds.hold) if refunded else None


def _account(objects: Objects) -> str | None:
    accounts = [known[FactName.ACCOUNT] for known in objects.every if FactName.ACCOUNT in known]
    account: str | None = max(accounts)[1] if accounts else None
    return account


def _amount(objects: Objects) -> tuple[int | None, str | None]:
    """The amount, and the currency of the object that it comes from."""
    source, amount = objects.winning_object("amount")
    for known, name in amount_sources(objects)[1:]:  # the larger one, if charge and PaymentIntent differ
        amount = max(amount, value(known, name))
    return amount, value(source, FactName.CURRENCY) or objects.value("currency")


def amount_sources(objects: Objects) -> list[tuple[ObjectFacts, FactName]]:
    """The objects that state how much was taken, with the name of their fact: the first charge that states it, and the
    PaymentIntent, if both are in one currency."""
    charges = [known for _, known in objects.members[Family.CHARGE] if FactName.TAKEN in known][:1]
    intents = [known for _, known in objects.members[Family.PAYMENT_INTENT] if FactName.RECEIVED in known]
    if charges and intents:
        currency = value(charges[0], FactName.CURRENCY)
        intents = [known for known in intents if value(known, FactName.CURRENCY) in (currency, None)]
    return [*((known, FactName.TAKEN) for known in charges), *((known, FactName.RECEIVED) for known in intents)]


def _created_at(objects: Objects) -> int:
    named: list[int] = [
        created
        for family in (Family.SESSION, Family.PAYMENT_INTENT)
        if (created := objects.first(family, FactName.CREATED)) is not None
    ]
    if named:
        return min(named)
    charged: int | None = objects.first(Family.CHARGE, FactName.CREATED)
    if charged is not None:
        return charged
    return min((known[FactName.SEEN] for known in objects.every if FactName.SEEN in known), default=0)


class LateFailure(msgspec.Struct, frozen=True):
    """A charge that took money and failed afterwards, as a returned bank debit does: when it was paid, if that is
    known, and when it failed."""

    id: str
    known: ObjectFacts
    paid_at: int | None
    failed_at: int


def late_failures(objects: Objects) -> list[LateFailure]:
    """The late failures of a donation in the order of time; each payment lies after the failure before."""
    failed = sorted(
        [(known[FactName.FAILED], id_, known) for id_, known in objects.members[Family.CHARGE] if failed_late(known)]
    )
    found, since = [], 0
    for failed_at, id_, known in failed:
        charges = [known] if FactName.CAPTURED in known else []
        found.append(LateFailure(id_, known, _paid_between(objects, charges, since, failed_at), failed_at))
        since = failed_at
    return found


def _paid_at(objects: Objects) -> int | None:
    """When the payment was made that no late failure has reversed."""
    failures = [known[FactName.FAILED] for _, known in objects.members[Family.CHARGE] if failed_late(known)]
    charges = [known for _, known in objects.members[Family.CHARGE] if holds_money(known)]
    return _paid_between(objects, charges, max(failures, default=0), NEVER)


def _paid_between(objects: Objects, charges: Sequence[ObjectFacts], since: int, until: int) -> int | None:
    """When a payment was made: by the events of success, otherwise by its charge's creation, otherwise by other facts.

    Args:
        charges: those that took the money.
        since: the time of the late failure before, which reversed every earlier payment.
        until: the time of the late failure after.
    """
    times: list[int] = [
        *_successes(objects, Family.PAYMENT_INTENT, (FactName.PAID, FactName.PAID_LAST), since, until),
        *(known[FactName.PAID] for known in charges if FactName.PAID in known),
        *(known[FactName.CAPTURED] for known in charges if FactName.NOT_TAKEN in known),
    ]
    if times:
        return min(times)
    charged: int | None = next(
        (created for known in charges if (created := value(known, FactName.CREATED)) is not None), None
    )
    if charged is not None:
        return charged
    received: list[int] = [
        *_successes(objects, Family.PAYMENT_INTENT, (FactName.RECEIVED_FIRST, FactName.RECEIVED_LAST), since, until),
        *_successes(objects, Family.SESSION, (FactName.PAID, FactName.PAID_LAST), since, until),
    ]
    return min(received, default=None)


def _successes(
    objects: Objects, family: Family, names: tuple[FactName, FactName], since: int, until: int
) -> Iterator[int]:
    """The time of each object's first success; if that is not in the range, the time of its newest success."""
    for _, known in objects.members[family]:
        first, newest = map(known.get, names)
        if first is not None and since <= first < until:
            yield first
        elif newest is not None and since <= newest[0] < until:
            yield newest[0]


class Refunds(msgspec.Struct, frozen=True):
    """What is known about a donation's refunds, in minor units (SPEC 3, refundedAmount).

    Stripe reports refunds twice: as refund objects, and as the sum `amount_refunded` of the charge.

    Attributes:
        known: the facts of the refund objects.
        standing: the sum of the refund objects that have not failed.
        hold: the part of an authorisation that was released, as far as `amount_refunded` contains it.
        beyond: the part of the newest `amount_refunded` for which no refund object is known.
    """

    known: list[ObjectFacts]
    standing: int
    hold: int
    beyond: int = 0

    @classmethod
    def of(cls, objects: Objects) -> "Refunds":
        """Reads a donation's objects."""
        known = [known for _, known in objects.members[Family.REFUND]]
        standing = sum(value(refund, FactName.AMOUNT) or 0 for refund in known if FactName.FAILED not in refund)
        refunds = cls(known, standing, _released_hold(objects))
        snapshot = next(
            (known[FactName.RETURNED] for _, known in objects.members[Family.CHARGE] if FactName.RETURNED in known),
            None,
        )
        return msgspec.structs.replace(refunds, beyond=refunds.beyond_in(*snapshot)) if snapshot else refunds

    def beyond_in(self, at: int, returned: int) -> int:
        """The part of `returned`, the `amount_refunded` at that time, for which no refund object is known."""
        belonging = [refund for refund in self.known if _belongs(refund, at)]
        certain = sum(value(refund, FactName.AMOUNT) or 0 for refund in belonging if refund.get(FactName.FAILED) != at)
        # A refund that failed in the second of the snapshot may be in the sum or not: it is, as far as it fits into it.
        failing = sum(value(refund, FactName.AMOUNT) or 0 for refund in belonging if refund.get(FactName.FAILED) == at)
        counted = certain + min(failing, max(0, returned - self.hold - certain))
        return max(0, returned - counted)

    def total(self, amount: int | None) -> int:
        """The refunded amount: at least zero, and at most the donation's amount if that is known."""
        total = max(0, self.standing + self.beyond - self.hold)
        return total if amount is None else min(total, amount)


def _belongs(refund: ObjectFacts, at: int) -> bool:
    """Whether `amount_refunded` at that time can contain this refund."""
    created = value(refund, FactName.CREATED)
    made = refund.get(FactName.SEEN, 0) if created is None else created
    return made <= at and not refund.get(FactName.FAILED, at) < at


def _released_hold(objects: Objects) -> int:
    """The part of an authorisation that was released, as far as `amount_refunded` contains it.

    It does after a single partial capture, and does not after several; nothing is released before the last of several.
    """
    authorised: int | None = objects.first(Family.CHARGE, FactName.AMOUNT)
    if authorised is None:
        return 0
    charge = next(known for _, known in objects.members[Family.CHARGE] if FactName.AMOUNT in known)
    taken: int = max(value(charge, FactName.TAKEN) or 0, objects.first(Family.PAYMENT_INTENT, FactName.RECEIVED) or 0)
    gap = max(0, authorised - taken)
    if not taken:
        return gap
    if value(charge, FactName.FLAG) is False and FactName.TAKEN in charge:
        return 0
    counted: int = charge.get(FactName.RETURNED_LEAST, value(charge, FactName.RETURNED) or 0)
    return min(gap, counted)


def _refunded_at(objects: Objects, hold: int) -> int | None:
    times: list[int] = [
        at
        for _, known in objects.members[Family.CHARGE]
        for amount, at in known.get(FactName.REFUND_EVENTS, {}).items()
        if int(amount) > hold
    ]
    times += [
        known[FactName.REFUND_SEEN] for _, known in objects.members[Family.CHARGE] if FactName.REFUND_SEEN in known
    ]  # stored by rules_version 0
    if times:
        return min(times)
    created: list[int] = [
        known[FactName.CREATED][1] for _, known in objects.members[Family.REFUND] if FactName.CREATED in known
    ]
    return min(created, default=None)


def _disputed(objects: Objects, amount: int | None, currency: str | None, refunded: int) -> int:
    total = 0
    for _, dispute in objects.members[Family.DISPUTE]:
        stage, disputed, _ = value(dispute, FactName.STAGE) or (None, 0, None)
        if stage in TAKES_MONEY:
            in_our_currency = value(dispute, FactName.CURRENCY) in (currency, None)
            total += disputed if in_our_currency else amount or 0
    return total if amount is None else max(0, min(total, amount - refunded))


class Money(msgspec.Struct, frozen=True):
    """The figures that a status depends on, in minor units."""

    amount: int | None
    refunded: int
    paid_at: int | None

    @property
    def is_refunded(self) -> bool:
        """Whether the whole amount was paid and refunded."""
        paid = self.paid_at is not None and self.amount is not None
        return paid and self.refunded >= (self.amount or 0) and self.refunded > 0


def _is_disputed(objects: Objects, _money: Money) -> bool:
    return any(
        (value(dispute, FactName.STAGE) or [None])[0] in IS_DISPUTED for _, dispute in objects.members[Family.DISPUTE]
    )


def _is_expired(objects: Objects, _money: Money) -> bool:
    return objects.states_any(Family.SESSION, name=FactName.EXPIRED) or objects.states_any(
        Family.PAYMENT_INTENT, name=FactName.CANCELED
    )


def _is_failed(objects: Objects, _money: Money) -> bool:
    return objects.states_any(Family.PAYMENT_INTENT, Family.SESSION, Family.CHARGE, name=FactName.FAILED)


StatusRule = Callable[[Objects, Money], bool]

# A donation has the first of these statuses whose rule is true. The sentences are shown in the diagram.
STATUSES: tuple[tuple[Status, str, StatusRule], ...] = (
    (Status.DISPUTED, "a dispute, an inquiry or an appeal is open, or a dispute was lost", _is_disputed),
    (Status.REFUNDED, "paid, and the whole amount was refunded", lambda _objects, money: money.is_refunded),
    (Status.PAID, "the payment succeeded", lambda _objects, money: money.paid_at is not None),
    (Status.EXPIRED, "the session expired, or the PaymentIntent was canceled", _is_expired),
    (Status.FAILED, "an attempt to pay failed", _is_failed),
    (Status.CREATED, "nothing of this has happened yet", lambda _objects, _money: True),
)


def status_of(objects: Objects, money: Money) -> Status:
    """The status of a donation with these objects and these figures."""
    return next(status for status, _sentence, rule in STATUSES if rule(objects, money))

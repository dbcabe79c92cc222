"""Pure: facts merged in any order, and the donations they add up to (SPEC 3).

`merge` is commutative, associative and idempotent, so retries, duplicates, reordering and batches need no code of
their own. `donations` derives everything that is shown from the merged facts, by the precedence written down in
SOURCES and STATUSES; README's diagram is drawn from these two.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from daemon.ledger.stripe_events import DONOR_FIELDS, RANKS, SHARED, STAGE_OF_UNKNOWN, Fact, Facts

# The version of the rules in this file and in facts.py. It rises when a stored row would be derived differently, with
# a migration that lists the rows of older rules (SPEC 9, rebuild).
RULES_VERSION = 2  # 2: the journal's entries

# Who states what is shown, the first that has something to say speaks: family of Stripe objects, and its fact. Within
# a family objects speak in turn (TURN); `op` is the operator, `in` the invoice that the donation pays, `sub` its
# subscription.
SOURCES = {
    "ticket": (
        ("op", "assigned"),
        ("pi", "ticket"),
        ("ch", "ticket"),
        ("in", "ticket"),
        ("sub", "ticket"),
        ("cs", "ticket"),
        ("sub", "session_ticket"),
        ("cs", "reference"),
        ("sub", "session_reference"),
    ),
    "amount": (("ch", "taken"), ("pi", "received"), ("cs", "amount"), ("pi", "amount"), ("ch", "amount")),
    "currency": (("ch", "currency"), ("pi", "currency"), ("cs", "currency"), ("re", "currency"), ("dp", "currency")),
    "last_name": (("ch", "last_name"), ("cs", "last_name"), ("in", "last_name")),
    "country": (("ch", "country"), ("cs", "country")),
    "email_hash": (("ch", "email_hash"), ("pi", "email_hash"), ("cs", "email_hash"), ("in", "email_hash")),
}

TAKES_MONEY = frozenset(
    {
        STAGE_OF_UNKNOWN,
        *(
            RANKS[status]
            for status in ("needs_response", "under_review", "appeal_needs_response", "appeal_under_review", "lost")
        ),
    }
)
IS_DISPUTED = TAKES_MONEY | {RANKS["warning_needs_response"], RANKS["warning_under_review"]}

NEVER = 2**63  # sorts after every time: an object that does not say when it was created was not the first

Known = dict[str, Any]  # the facts of one object
Subscriptions = Mapping[str, Known]  # by id


class Donation(msgspec.Struct, frozen=True):
    """What is shown of a donation. Amounts in minor units, times in Unix seconds; None where nobody has said."""

    id: str
    ticket: str | None
    status: str
    amount: int | None
    currency: str | None
    refunded: int
    disputed: int
    created_at: int
    paid_at: int | None
    refunded_at: int | None
    last_name: str | None
    country: str | None
    email_hash: str | None
    session_id: str | None
    charge_id: str | None
    account: str | None
    subscription: str | None = None


def merge(facts: Facts, *more: Facts) -> Facts:
    """All put together, as a new object: the greater of newest facts, the smaller of first ones."""
    result: Facts = {}
    for each in (facts, *more):
        absorb(result, each)
    return result


def absorb(facts: Facts, more: Facts) -> bool:
    """As `merge`, but puts `more` into `facts`. Returns whether anything was new."""
    is_new = False
    for family, objects in more.items():
        mine = facts.setdefault(family, {})
        for id_, known in objects.items():
            if id_ not in mine:
                mine[id_] = {}
                is_new = True
            if absorb_object(mine[id_], known):
                is_new = True
    return is_new


def absorb_object(mine: Known, more: Known) -> bool:
    """Puts one object's facts into `mine`. Returns whether anything was new."""
    is_new = False
    for name, fact in more.items():
        held = mine.get(name)
        if isinstance(fact, dict):
            if absorb_object(mine.setdefault(name, {}), fact):
                is_new = True
        elif held is None or (fact < held if isinstance(fact, int) else fact > held):
            mine[name] = fact
            is_new = True
    return is_new


def ids(facts: Facts) -> set[str]:
    """The ids of all objects that the facts name and that tie facts to one donation: subscriptions do not."""
    return {id_ for family, objects in facts.items() if family != "sub" for id_ in objects}


def donation_ids(facts: Facts) -> set[str]:
    """The ids that a donation of these facts has, or may have had before more of them were known."""
    return {id_ for family in ("pi", "cs", "ch") for id_ in facts.get(family, ())}


def subscriptions(facts: Facts) -> set[str]:
    """The ids of the subscriptions that donations in these facts borrow from. An invoice that nothing has paid yet
    lends nothing to any donation, and so does one that its PaymentIntent no longer names."""
    if "in" not in facts:  # nearly always
        return set()
    return {id_ for of in by_donation(facts, {}).values() for id_, _ in of.members["sub"]}


def owners(facts: Facts) -> dict[str, str]:
    """Object id -> id of the donation it belongs to: its PaymentIntent, else the session, else the charge.

    Invoices have no owner: they lend what they state to whatever paid them.
    """
    owner = {id_: id_ for id_ in facts.get("pi", {})}
    for family in ("cs", "ch"):
        owner.update({id_: value(known, "payment_intent") or id_ for id_, known in facts.get(family, {}).items()})
    children = {
        id_: value(known, "payment_intent") or owner.get(charge := value(known, "charge"), charge)
        for family in ("re", "dp")
        for id_, known in facts.get(family, {}).items()
    }
    return owner | children  # all at once: even where ids of two families are the same, no order decides


def personal(facts: Facts) -> dict[str, list[tuple[str, str, Known]]]:
    """Donation id -> its objects that may name a donor: family, id and facts. An invoice that nothing has paid yet
    stands under its own id."""
    owner = owners(facts)
    found: dict[str, list[tuple[str, str, Known]]] = {}
    for family in ("pi", "cs", "ch"):
        for id_, known in facts.get(family, {}).items():
            found.setdefault(owner[id_], []).append((family, id_, known))
    unpaid = dict(facts.get("in", {}))
    for donation, of in by_donation(facts, {}).items():
        for id_, known in of.members["in"]:
            found.setdefault(donation, []).append(("in", id_, known))
            unpaid.pop(id_, None)
    return found | {id_: [("in", id_, known)] for id_, known in unpaid.items()}


def donations(facts: Facts, lent: Subscriptions | None = None) -> list[Donation]:
    """Every donation in these facts, by id. Usually one; sessions can tie several together, an invoice alone is none.

    Args:
        lent: the facts of the subscriptions that the facts' invoices name.
    """
    return [derive(id_, objects) for id_, objects in sorted(by_donation(facts, lent or {}).items())]


def forget(facts: Facts) -> Facts:
    """Facts without the donors that may not be kept.

    Those of every donation that was erased, so that no redelivery brings one back (SPEC 7): all objects of such a
    donation are marked as well, and one that is later found to belong to another donation stays erased. And those of
    charges that failed, which name no donor (SPEC 3), whatever else was said of them: what is forgotten here does not
    come back, so the rule must not depend on what is known so far.
    """
    for charge in facts.get("ch", {}).values():
        if "failed" in charge:
            for name in DONOR_FIELDS:
                charge.pop(name, None)
    marks: list[Any] = [known["erased"] for of in facts.values() for known in of.values() if "erased" in known]
    if not marks:
        return facts
    at: int = min(marks)
    erased = {
        id_
        for objects in personal(facts).values()
        if any("erased" in known for _, _, known in objects)
        for _, id_, _ in objects
    }
    return {
        family: {
            id_: _without_donor(known, at) if "erased" in known or id_ in erased else known
            for id_, known in objects.items()
        }
        for family, objects in facts.items()
    }


def _without_donor(known: Known, at: Fact) -> Known:
    return {"erased": at, **{name: fact for name, fact in known.items() if name not in DONOR_FIELDS}}


# What a failed charge may still supply, if no later one of its PaymentIntent does.
SUPPLIED = ("amount", "returned", "currency", "created", "ticket", "invoice", "account")
# A charge that states one of these counts for itself, whatever other charges state: it took money, or was refunded.
STATES_MONEY = frozenset({"taken", "refund_events", "refund_seen"})


def split_attempts(facts: Facts) -> tuple[Facts, dict[str, Known]]:
    """Facts without the failed charges that can supply no value any more, and these charges.

    So the facts of a PaymentIntent stay small, however often it failed: card testers try a thousand times. A charge
    that never took money comes after each later one, so it is needed only for what no later failed one states. The
    later one keeps what it states and its place before this one whatever becomes of it, so that the rule knows no
    order. The charge's own facts are kept elsewhere, and count in full as soon as an event names it again.
    """
    charges = facts.get("ch", {})
    if len(charges) < 2:
        return facts, {}
    children = {value(child, "charge") for family in ("re", "dp") for child in facts.get(family, {}).values()}
    apart: dict[str, Known] = {}
    supplied: dict[str, set[str]] = {}
    for id_, known in sorted(charges.items(), key=TURN["ch"], reverse=True):
        intent = value(known, "payment_intent")
        if (
            intent is None
            or id_ in children
            or value(known, "status") != "failed"
            or not STATES_MONEY.isdisjoint(known)
        ):
            continue
        by_later = supplied.setdefault(intent, set())
        states = {name for name in SUPPLIED if name in known}
        if "assigned" not in known and "created" in states and states <= by_later:
            apart[id_] = known
        by_later |= states
    if not apart:
        return facts, {}
    kept = {id_: known for id_, known in charges.items() if id_ not in apart}
    return {**facts, "ch": kept}, apart


Member = tuple[str, Known]  # an object's id and its facts


class Objects:
    """One donation's Stripe objects, by family, in the order in which they speak."""

    __slots__ = ("every", "members")

    def __init__(self) -> None:
        self.members: dict[str, list[Member]] = {family: [] for family in TURN}
        self.every: list[Known] = []

    def add(self, family: str, id_: str, known: Known) -> None:
        """One more object. What an operator said of it speaks for itself."""
        self.members[family].append((id_, known))
        if family not in SHARED:
            self.every.append(known)
        if "assigned" in known:
            self.members["op"].append((id_, known))

    def sort(self) -> None:
        """Puts the objects in the order in which they speak. Of several sessions the first is the only one to."""
        for family, members in self.members.items():
            if len(members) > 1:
                members.sort(key=TURN[family], reverse=family != "cs")
        del self.members["cs"][1:]

    def borrow(self, facts: Facts, lent: Subscriptions) -> None:
        """Adds the invoice that the donation pays, and that invoice's subscription."""
        invoice = self.first("pi", "invoice") or self.first("ch", "invoice")
        if invoice is None:
            return
        known = facts.get("in", {}).get(invoice, {})
        self.add("in", invoice, known)
        if subscription := value(known, "subscription"):
            self.add("sub", subscription, lent.get(subscription, {}))

    def speaker(self, fact: str) -> tuple[Known, Any]:
        """The object that speaks first for a fact of SOURCES, and what it says; ({}, None) if none does."""
        for family, name in SOURCES[fact]:
            for _, known in self.members[family]:
                if name in known:
                    return known, known[name][1]
        return {}, None

    def says(self, fact: str) -> Any:
        """The value shown for a fact of SOURCES."""
        return self.speaker(fact)[1]

    def first(self, family: str, name: str) -> Any:
        """The value of the first object of a family that states this newest fact, or None."""
        for _, known in self.members[family]:
            if name in known:
                return known[name][1]
        return None

    def says_any(self, *families: str, name: str) -> bool:
        """Whether any object of these families states this fact."""
        return any(name in known for family in families for _, known in self.members[family])


def holds_money(charge: Known) -> bool:
    """Whether a charge took money, and did not give it back by a late failure (SPEC 3, paidAt)."""
    return "captured" in charge and value(charge, "status") != "failed"


def is_late_failure(charge: Known) -> bool:
    """Whether a charge that said it took money has failed since, as a returned bank debit does."""
    return "taken" in charge and value(charge, "status") == "failed"


def _created_first(member: Member) -> tuple[int, str]:
    created = value(member[1], "created")
    return NEVER if created is None else created, member[0]


def _captured_then_latest(member: Member) -> tuple[bool, int, str]:
    return holds_money(member[1]), value(member[1], "created") or 0, member[0]


def _currency_said_last(member: Member) -> tuple[list[Any], str]:
    return member[1].get("currency", [0, ""]), member[0]


# In which order the objects of a family speak: of several charges the one that captured money comes first, then the
# later created, then the greater id; sessions from the first created on; of operators' words the newest. A donation
# has one invoice and one subscription.
TURN: dict[str, Callable[[Member], Any]] = {
    "pi": lambda member: member[0],
    "cs": _created_first,
    "ch": _captured_then_latest,
    "re": _currency_said_last,
    "dp": _currency_said_last,
    "op": lambda member: member[1]["assigned"],
    "in": lambda member: member[0],
    "sub": lambda member: member[0],
}


def by_donation(facts: Facts, lent: Subscriptions) -> dict[str, Objects]:
    """The objects of every donation in these facts, by its id."""
    owner = owners(facts)
    grouped: dict[str, Objects] = {}
    for family, objects in facts.items():
        if family in SHARED:
            continue
        for id_, known in objects.items():
            if (of := grouped.get(owner[id_])) is None:
                of = grouped[owner[id_]] = Objects()
            of.add(family, id_, known)
    for of in grouped.values():
        of.sort()
        of.borrow(facts, lent)
    return grouped


def value(known: Known, name: str) -> Any:
    """The value of an object's newest fact, or None."""
    fact = known.get(name)
    return None if fact is None else fact[1]


def derive(id_: str, of: Objects) -> Donation:
    """What is shown of the donation that these objects make."""
    amount, currency = _amount(of)
    refunds = Refunds.of(of)
    refunded = refunds.total(amount)
    paid_at = _paid_at(of)
    is_paid = paid_at is not None
    return Donation(
        id=id_,
        ticket=of.says("ticket"),
        status=_status(of, _Money(amount, refunded, paid_at)),
        amount=amount,
        currency=currency,
        refunded=refunded,
        disputed=_disputed(of, amount, currency, refunded),
        created_at=_created_at(of),
        paid_at=paid_at,
        refunded_at=_refunded_at(of, refunds.hold) if refunded else None,
        last_name=of.says("last_name") if is_paid else None,
        country=of.says("country") if is_paid else None,
        email_hash=of.says("email_hash"),
        session_id=of.members["cs"][0][0] if of.members["cs"] else None,
        charge_id=of.members["ch"][0][0] if of.members["ch"] else None,
        account=_account(of),
        subscription=of.members["sub"][0][0] if of.members["sub"] else None,
    )


def _account(of: Objects) -> str | None:
    said = [known["account"] for known in of.every if "account" in known]
    account: str | None = max(said)[1] if said else None
    return account


def _amount(of: Objects) -> tuple[int | None, str | None]:
    """The amount and its currency, which the object that names the amount names as well."""
    speaker, amount = of.speaker("amount")
    for known, name in amount_sources(of)[1:]:  # of a charge and its PaymentIntent the larger counts
        amount = max(amount, value(known, name))
    return amount, value(speaker, "currency") or of.says("currency")


def amount_sources(of: Objects) -> list[tuple[Known, str]]:
    """The objects that state how much was taken, with the name of their fact: the first charge that states it, and the
    PaymentIntent, as long as they speak of one currency."""
    charges = [known for _, known in of.members["ch"] if "taken" in known][:1]
    intents = [known for _, known in of.members["pi"] if "received" in known]
    if charges and intents and value(intents[0], "currency") not in (value(charges[0], "currency"), None):
        intents = []
    return [(known, "taken") for known in charges] + [(known, "received") for known in intents]


def _created_at(of: Objects) -> int:
    named: list[int] = [created for family in ("cs", "pi") if (created := of.first(family, "created")) is not None]
    if named:
        return min(named)
    charged: int | None = of.first("ch", "created")
    if charged is not None:
        return charged
    return min((known["seen"] for known in of.every if "seen" in known), default=0)


class LateFailure(msgspec.Struct, frozen=True):
    """A charge that took money and failed afterwards, as a returned bank debit does: when it was paid, if that is
    known, and when it failed."""

    id: str
    known: Known
    paid_at: int | None
    failed_at: int


def late_failures(of: Objects) -> list[LateFailure]:
    """The late failures of a donation, in their order; each payment is looked for since the failure before."""
    failed = sorted(
        (known["failed"], id_, known) for id_, known in of.members["ch"] if is_late_failure(known) and "failed" in known
    )
    found, since = [], 0
    for failed_at, id_, known in failed:
        charges = [known] if "captured" in known else []
        found.append(LateFailure(id_, known, _paid_between(of, charges, since, failed_at), failed_at))
        since = failed_at
    return found


def _paid_at(of: Objects) -> int | None:
    """When the money came that the donation holds."""
    failures = [known["failed"] for _, known in of.members["ch"] if is_late_failure(known) and "failed" in known]
    charges = [known for _, known in of.members["ch"] if holds_money(known)]
    return _paid_between(of, charges, max(failures, default=0), NEVER)


def _paid_between(of: Objects, charges: Sequence[Known], since: int, until: int) -> int | None:
    """When money came: by the events that say so, else by a charge that took some, else by what is paid.

    Args:
        charges: those that took the money.
        since: the late failure before; what succeeded earlier was taken back.
        until: the late failure after.
    """
    said: list[int] = [
        *_successes(of, "pi", "paid", since, until),
        *(known["paid"] for known in charges if "paid" in known),
        *(known["captured"] for known in charges if "not_taken" in known),
    ]
    if said:
        return min(said)
    charged: int | None = next((created for known in charges if (created := value(known, "created")) is not None), None)
    if charged is not None:
        return charged
    received: list[int] = [
        *_successes(of, "pi", "received", since, until),
        *_successes(of, "cs", "paid", since, until),
    ]
    return min(received, default=None)


def _successes(of: Objects, family: str, name: str, since: int, until: int) -> Iterator[int]:
    """The time of each object's first success; where that is out of range, that of its newest one."""
    first_name = "received_first" if name == "received" else name
    for _, known in of.members[family]:
        first = known.get(first_name)
        newest = known.get(f"{name}_last")
        if first is not None and since <= first < until:
            yield first
        elif newest is not None and since <= newest[0] < until:
            yield newest[0]


class Refunds(msgspec.Struct, frozen=True):
    """What is known of a donation's refunds, in minor units (SPEC 3, refundedAmount).

    Attributes:
        known: the facts of the refunds that are known by themselves.
        standing: all of them that did not fail.
        hold: the part of an authorisation that was released, as far as the charge counts it as refunded.
        beyond: what the charge's newest snapshot counts beyond the refunds that belong in it.
    """

    known: list[Known]
    standing: int
    hold: int
    beyond: int = 0

    @classmethod
    def of(cls, objects: Objects) -> "Refunds":
        """Reads a donation's objects."""
        known = [known for _, known in objects.members["re"]]
        standing = sum(value(refund, "amount") or 0 for refund in known if "failed" not in refund)
        refunds = cls(known, standing, _released_hold(objects))
        snapshot = next((charge["returned"] for _, charge in objects.members["ch"] if "returned" in charge), None)
        return msgspec.structs.replace(refunds, beyond=refunds.beyond_in(*snapshot)) if snapshot else refunds

    def beyond_in(self, at: int, returned: int) -> int:
        """What a charge's snapshot of that second counts beyond the refunds that belong in it."""
        belonging = [refund for refund in self.known if _belongs(refund, at)]
        certain = sum(value(refund, "amount") or 0 for refund in belonging if refund.get("failed") != at)
        # The snapshot of the second in which a refund failed may count it or not: it does as far as there is room.
        failing = sum(value(refund, "amount") or 0 for refund in belonging if refund.get("failed") == at)
        counted = certain + min(failing, max(0, returned - self.hold - certain))
        return max(0, returned - counted)

    def total(self, amount: int | None) -> int:
        """The refunded amount, never below zero nor above a known amount."""
        total = max(0, self.standing + self.beyond - self.hold)
        return total if amount is None else min(total, amount)


def _belongs(refund: Known, at: int) -> bool:
    """Whether a charge's snapshot of that second may count this refund already."""
    created = value(refund, "created")
    made = refund.get("seen", 0) if created is None else created
    return made <= at and not refund.get("failed", at) < at


def _released_hold(of: Objects) -> int:
    """The part of an authorisation that was released, as far as Stripe counts it as refunded.

    After one partial capture it does, after several it does not, and before the last of several nothing is released.
    """
    authorised: int | None = of.first("ch", "amount")
    if authorised is None:
        return 0
    charge = next(known for _, known in of.members["ch"] if "amount" in known)
    taken: int = max(value(charge, "taken") or 0, of.first("pi", "received") or 0)
    gap = max(0, authorised - taken)
    if not taken:
        return gap
    if value(charge, "flag") is False and "taken" in charge:
        return 0
    counted: int = charge.get("returned_least", value(charge, "returned") or 0)
    return min(gap, counted)


def _refunded_at(of: Objects, hold: int) -> int | None:
    said: list[int] = [
        at
        for _, known in of.members["ch"]
        for amount, at in known.get("refund_events", {}).items()
        if int(amount) > hold
    ]
    said += [known["refund_seen"] for _, known in of.members["ch"] if "refund_seen" in known]  # by rules_version 0
    if said:
        return min(said)
    created: list[int] = [known["created"][1] for _, known in of.members["re"] if "created" in known]
    return min(created, default=None)


def _disputed(of: Objects, amount: int | None, currency: str | None, refunded: int) -> int:
    total = 0
    for _, dispute in of.members["dp"]:
        stage, disputed, _ = value(dispute, "stage") or (None, 0, None)
        if stage in TAKES_MONEY:
            in_our_currency = value(dispute, "currency") in (currency, None)
            total += disputed if in_our_currency else amount or 0
    return total if amount is None else max(0, min(total, amount - refunded))


class _Money(msgspec.Struct, frozen=True):
    amount: int | None
    refunded: int
    paid_at: int | None

    @property
    def is_refunded(self) -> bool:
        paid = self.paid_at is not None and self.amount is not None
        return paid and self.refunded >= (self.amount or 0) and self.refunded > 0


def _is_disputed(of: Objects, _money: _Money) -> bool:
    return any((value(dispute, "stage") or [None])[0] in IS_DISPUTED for _, dispute in of.members["dp"])


def _is_given_up(of: Objects, _money: _Money) -> bool:
    return of.says_any("cs", name="expired") or of.says_any("pi", name="canceled")


def _is_failed(of: Objects, _money: _Money) -> bool:
    return of.says_any("pi", "cs", "ch", name="failed")


Rule = Callable[[Objects, _Money], bool]

# A donation's status is the first whose rule holds; each has the sentence that README shows.
STATUSES: tuple[tuple[str, str, Rule], ...] = (
    ("DISPUTED", "a dispute, an inquiry or an appeal is open, or a dispute was lost", _is_disputed),
    ("REFUNDED", "paid, and the whole amount went back", lambda _of, money: money.is_refunded),
    ("PAID", "money came", lambda _of, money: money.paid_at is not None),
    ("EXPIRED", "the session expired, or the PaymentIntent was canceled", _is_given_up),
    ("FAILED", "an attempt to pay failed", _is_failed),
    ("CREATED", "nothing of that yet", lambda _of, _money: True),
)


def _status(of: Objects, money: _Money) -> str:
    return next(status for status, _sentence, holds in STATUSES if holds(of, money))

"""Pure: facts merged in any order, and the donations they add up to (SPEC 3).

`merge` is commutative, associative and idempotent, so retries, duplicates, reordering and batches need no code of
their own. `donations` derives everything that is shown from the merged facts, by the precedence written down in
SOURCES and STATUSES; README's diagram is drawn from these two.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from daemon.facts import DISPUTE_STAGES, DONOR_FIELDS, Fact, Facts

# Who states what is shown, the first that has something to say speaks: family of Stripe objects, and its fact. Within
# a family objects speak in turn (TURN); `op` is the operator.
SOURCES = {
    "ticket": (("op", "assigned"), ("pi", "ticket"), ("ch", "ticket"), ("cs", "ticket"), ("cs", "reference")),
    "amount": (("ch", "taken"), ("pi", "received"), ("cs", "amount"), ("pi", "amount"), ("ch", "amount")),
    "currency": (("ch", "currency"), ("pi", "currency"), ("cs", "currency"), ("re", "currency"), ("dp", "currency")),
    "last_name": (("ch", "last_name"), ("cs", "last_name")),
    "country": (("ch", "country"), ("cs", "country")),
    "email_hash": (("ch", "email_hash"), ("pi", "email_hash"), ("cs", "email_hash")),
}

TAKES_MONEY = frozenset(DISPUTE_STAGES.index(s) for s in ("needs_response", "under_review", "lost"))
IS_DISPUTED = TAKES_MONEY | {DISPUTE_STAGES.index(s) for s in ("warning_needs_response", "warning_under_review")}

NEVER = 2**63  # sorts after every time: an object that does not say when it was created was not the first

Known = dict[str, Any]  # the facts of one object


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


def merge(facts: Facts, *more: Facts) -> Facts:
    """All put together, as a new object: the greater of newest facts, the smaller of first ones."""
    result = {family: {id_: dict(known) for id_, known in objects.items()} for family, objects in facts.items()}
    for each in more:
        absorb(result, each)
    return result


def absorb(facts: Facts, more: Facts) -> bool:
    """As `merge`, but puts `more` into `facts`. Returns whether anything was new."""
    is_new = False
    for family, objects in more.items():
        mine = facts.setdefault(family, {})
        for id_, known in objects.items():
            if id_ not in mine:
                mine[id_] = dict(known)
                is_new = True
            elif _absorb_object(mine[id_], known):
                is_new = True
    return is_new


def _absorb_object(mine: Known, more: Known) -> bool:
    is_new = False
    for name, fact in more.items():
        held = mine.get(name)
        if held is None or (fact < held if isinstance(fact, int) else fact > held):
            mine[name] = fact
            is_new = True
    return is_new


def ids(facts: Facts) -> set[str]:
    """The ids of all objects that the facts name."""
    return {id_ for objects in facts.values() for id_ in objects}


def owners(facts: Facts) -> dict[str, str]:
    """Object id -> id of the donation it belongs to: its PaymentIntent, else the session, else the charge."""
    owner = {id_: id_ for id_ in facts.get("pi", {})}
    for family in ("cs", "ch"):
        owner.update({id_: _value(known, "payment_intent") or id_ for id_, known in facts.get(family, {}).items()})
    children = {
        id_: _value(known, "payment_intent") or owner.get(charge := _value(known, "charge"), charge)
        for family in ("re", "dp")
        for id_, known in facts.get(family, {}).items()
    }
    return owner | children  # all at once: even where ids of two families are the same, no order decides


def donations(facts: Facts) -> list[Donation]:
    """Every donation in these facts, by id. Usually one; sessions can tie several together."""
    return [_derive(id_, objects) for id_, objects in sorted(_by_donation(facts).items())]


def forget(facts: Facts) -> Facts:
    """Facts without the donor of every donation that was erased, so that no redelivery brings one back (SPEC 7).

    All objects of such a donation are marked as well: one that is later found to belong to another donation stays
    erased.
    """
    marks = [known["erased"] for objects in facts.values() for known in objects.values() if "erased" in known]
    if not marks:
        return facts
    owner, at = owners(facts), min(marks)
    erased = {id_ for id_, of in _by_donation(facts).items() if any("erased" in known for known in of.every)}
    return {
        family: {
            id_: _without_donor(known, at) if "erased" in known or owner[id_] in erased else known
            for id_, known in objects.items()
        }
        for family, objects in facts.items()
    }


def _without_donor(known: Known, at: Fact) -> Known:
    return {"erased": at, **{name: fact for name, fact in known.items() if name not in DONOR_FIELDS}}


Member = tuple[str, Known]  # an object's id and its facts


class _Objects:
    """One donation's Stripe objects, by family, in the order in which they speak."""

    __slots__ = ("every", "members")

    def __init__(self) -> None:
        self.members: dict[str, list[Member]] = {"pi": [], "cs": [], "ch": [], "re": [], "dp": [], "op": []}
        self.every: list[Known] = []

    def add(self, family: str, id_: str, known: Known) -> None:
        """One more object. What an operator said of it speaks for itself."""
        self.members[family].append((id_, known))
        self.every.append(known)
        if "assigned" in known:
            self.members["op"].append((id_, known))

    def sort(self) -> None:
        """Puts the objects in the order in which they speak. Of several sessions the first is the only one to."""
        for family, members in self.members.items():
            if len(members) > 1:
                members.sort(key=TURN[family], reverse=family != "cs")
        del self.members["cs"][1:]

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

    def earliest(self, *families: str, name: str) -> int | None:
        """The earliest time of a first fact over these families, or None."""
        times = [known[name] for family in families for _, known in self.members[family] if name in known]
        return min(times) if times else None

    def says_any(self, *families: str, name: str) -> bool:
        """Whether any object of these families states this fact."""
        return any(name in known for family in families for _, known in self.members[family])


def _created_first(member: Member) -> tuple[int, str]:
    created = _value(member[1], "created")
    return NEVER if created is None else created, member[0]


def _captured_then_latest(member: Member) -> tuple[bool, int, str]:
    return "captured" in member[1], _value(member[1], "created") or 0, member[0]


def _currency_said_last(member: Member) -> tuple[list[Any], str]:
    return member[1].get("currency", [0, ""]), member[0]


# In which order the objects of a family speak: of several charges the one that captured money comes first, then the
# later created, then the greater id; sessions from the first created on; of operators' words the newest.
TURN: dict[str, Callable[[Member], Any]] = {
    "pi": lambda member: member[0],
    "cs": _created_first,
    "ch": _captured_then_latest,
    "re": _currency_said_last,
    "dp": _currency_said_last,
    "op": lambda member: member[1]["assigned"],
}


def _by_donation(facts: Facts) -> dict[str, _Objects]:
    owner = owners(facts)
    grouped: dict[str, _Objects] = {}
    for family, objects in facts.items():
        for id_, known in objects.items():
            if (of := grouped.get(owner[id_])) is None:
                of = grouped[owner[id_]] = _Objects()
            of.add(family, id_, known)
    for of in grouped.values():
        of.sort()
    return grouped


def _value(known: Known, name: str) -> Any:
    fact = known.get(name)
    return None if fact is None else fact[1]


def _derive(id_: str, of: _Objects) -> Donation:
    amount, currency = _amount(of)
    refunded = _refunded(of, amount)
    paid_at = _paid_at(of)
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
        refunded_at=_refunded_at(of) if refunded else None,
        last_name=of.says("last_name"),
        country=of.says("country"),
        email_hash=of.says("email_hash"),
        session_id=of.members["cs"][0][0] if of.members["cs"] else None,
        charge_id=of.members["ch"][0][0] if of.members["ch"] else None,
        account=_account(of),
    )


def _account(of: _Objects) -> str | None:
    said = [known["account"] for known in of.every if "account" in known]
    account: str | None = max(said)[1] if said else None
    return account


def _amount(of: _Objects) -> tuple[int | None, str | None]:
    """The amount and its currency, which the object that names the amount names as well."""
    speaker, amount = of.speaker("amount")
    return amount, _value(speaker, "currency") or of.says("currency")


def _created_at(of: _Objects) -> int:
    named: list[int] = [created for family in ("cs", "pi") if (created := of.first(family, "created")) is not None]
    if named:
        return min(named)
    charged: int | None = of.first("ch", "created")
    if charged is not None:
        return charged
    return min((known["seen"] for known in of.every if "seen" in known), default=0)


def _paid_at(of: _Objects) -> int | None:
    """When money came: by the events that say so, else by a charge that took some, else by a session that is paid."""
    said = of.earliest("pi", "ch", name="paid")
    if said is not None:
        return said
    captured = (_value(known, "created") for _, known in of.members["ch"] if "captured" in known)
    charged = next((created for created in captured if created is not None), None)
    return charged if charged is not None else of.earliest("cs", name="paid")


def _refunded(of: _Objects, amount: int | None) -> int:
    """The standing refunds, plus what the charge says beyond those it knew, less what was never captured."""
    standing: int = sum(_value(refund, "amount") or 0 for _, refund in of.members["re"] if "failed" not in refund)
    total: int = max(0, standing + _beyond(of) - _never_captured(of))
    return total if amount is None else min(total, amount)


def _beyond(of: _Objects) -> int:
    """What the charge's newest snapshot says was refunded, beyond the refunds we know to be counted in it."""
    snapshot = next((known["returned"] for _, known in of.members["ch"] if "returned" in known), None)
    if snapshot is None:
        return 0
    at, returned = snapshot
    beyond: int = returned - sum(
        _value(refund, "amount") or 0 for _, refund in of.members["re"] if _belongs(refund, at)
    )
    return max(0, beyond)


def _belongs(refund: Known, at: int) -> bool:
    """Whether a charge's snapshot of that second counts this refund already."""
    created = _value(refund, "created")
    made = refund.get("seen", 0) if created is None else created
    return made <= at and not refund.get("failed", at) < at


def _never_captured(of: _Objects) -> int:
    """The part of an authorisation that was released: Stripe counts it as refunded."""
    authorised: int | None = of.first("ch", "amount")
    if authorised is None:
        return 0
    taken: int = max(of.first("ch", "taken") or 0, of.first("pi", "received") or 0)
    return max(0, authorised - taken)


def _refunded_at(of: _Objects) -> int | None:
    said = of.earliest("ch", name="refund_seen")
    if said is not None:
        return said
    created = [known["created"][1] for _, known in of.members["re"] if "created" in known]
    return min(created) if created else None


def _disputed(of: _Objects, amount: int | None, currency: str | None, refunded: int) -> int:
    total = 0
    for _, dispute in of.members["dp"]:
        stage, disputed = _value(dispute, "state") or (None, 0)
        if stage in TAKES_MONEY:
            in_our_currency = _value(dispute, "currency") in (currency, None)
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


def _is_disputed(of: _Objects, _money: _Money) -> bool:
    return any((_value(dispute, "state") or [None])[0] in IS_DISPUTED for _, dispute in of.members["dp"])


def _is_given_up(of: _Objects, _money: _Money) -> bool:
    return of.says_any("cs", name="expired") or of.says_any("pi", name="canceled")


def _is_failed(of: _Objects, _money: _Money) -> bool:
    return of.says_any("pi", "cs", "ch", name="failed")


Rule = Callable[[_Objects, _Money], bool]

# A donation's status is the first whose rule holds; each has the sentence that README shows.
STATUSES: tuple[tuple[str, str, Rule], ...] = (
    ("DISPUTED", "a dispute or an inquiry is open, or a dispute was lost", _is_disputed),
    ("REFUNDED", "paid, and the whole amount went back", lambda _of, money: money.is_refunded),
    ("PAID", "money came", lambda _of, money: money.paid_at is not None),
    ("EXPIRED", "the session expired, or the PaymentIntent was canceled", _is_given_up),
    ("FAILED", "an attempt to pay failed", _is_failed),
    ("CREATED", "nothing of that yet", lambda _of, _money: True),
)


def _status(of: _Objects, money: _Money) -> str:
    return next(status for status, _sentence, holds in STATUSES if holds(of, money))

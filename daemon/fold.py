"""Pure: facts merged in any order, and the donations they add up to (SPEC 3).

`merge` is commutative, associative and idempotent, so retries, duplicates, reordering and batches need no code of
their own. `donations` derives everything that is shown from the merged facts, by precedence of sources.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from daemon.facts import DISPUTE_STAGES, Facts

TAKES_MONEY = frozenset(DISPUTE_STAGES.index(s) for s in ("needs_response", "under_review", "lost"))
IS_DISPUTED = TAKES_MONEY | {DISPUTE_STAGES.index(s) for s in ("warning_needs_response", "warning_under_review")}

Known = dict[str, Any]  # the facts of one object


@dataclass(frozen=True)
class Donation:
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


@dataclass
class _Objects:
    """One donation's Stripe objects: its PaymentIntent, the session that speaks, charges in the order they speak."""

    intent: Known
    session_id: str | None
    session: Known
    charges: list[tuple[str, Known]]
    refunds: list[Known]
    disputes: list[Known]

    def every(self) -> Iterable[Known]:
        yield from (self.intent, self.session, *(c for _, c in self.charges), *self.refunds, *self.disputes)

    def charge(self, field: str) -> Any:
        """The value of the first charge, in the order they speak, that has one."""
        return next((v for _, known in self.charges if (v := _value(known, field)) is not None), None)


def merge(facts: Facts, more: Facts) -> Facts:
    """The two put together, as a new object: the greater of newest facts, the smaller of first ones."""
    result = {family: {id_: dict(known) for id_, known in objects.items()} for family, objects in facts.items()}
    for family, objects in more.items():
        mine = result.setdefault(family, {})
        for id_, known in objects.items():
            _merge_object(mine.setdefault(id_, {}), known)
    return result


def _merge_object(mine: Known, more: Known) -> None:
    for field, fact in more.items():
        if field not in mine:
            mine[field] = fact
        else:
            stands = min if isinstance(fact, int) else max
            mine[field] = stands(mine[field], fact)


def ids(facts: Facts) -> list[str]:
    """The ids of all objects that the facts name, sorted."""
    return sorted(id_ for objects in facts.values() for id_ in objects)


def donations(facts: Facts) -> list[Donation]:
    """Every donation in these facts, by id. Usually one; sessions can tie several together."""
    return [_derive(id_, objects) for id_, objects in sorted(_by_donation(facts).items())]


def _by_donation(facts: Facts) -> dict[str, _Objects]:
    charges = facts.get("ch", {})
    owner_of = {id_: _value(known, "payment_intent") or id_ for id_, known in charges.items()}
    grouped: dict[str, _Objects] = {}

    def group(id_: str) -> _Objects:
        return grouped.setdefault(id_, _Objects({}, None, {}, [], [], []))

    for id_, known in facts.get("pi", {}).items():
        group(id_).intent = known
    for id_, known in sorted(facts.get("cs", {}).items(), key=_created_first):
        objects = group(_value(known, "payment_intent") or id_)
        if objects.session_id is None:
            objects.session_id, objects.session = id_, known
    for id_, known in sorted(charges.items(), key=_speaks, reverse=True):
        group(owner_of[id_]).charges.append((id_, known))
    for family in ("re", "dp"):
        for known in facts.get(family, {}).values():
            charge = _value(known, "charge")
            objects = group(_value(known, "payment_intent") or owner_of.get(charge, charge))
            (objects.refunds if family == "re" else objects.disputes).append(known)
    return grouped


def _created_first(item: tuple[str, Known]) -> tuple[int, str]:
    return _value(item[1], "created") or 0, item[0]


def _speaks(item: tuple[str, Known]) -> tuple[bool, int, str]:
    """Of several charges the one that captured money comes first, then the later created, then the greater id."""
    return "captured" in item[1], _value(item[1], "created") or 0, item[0]


def _value(known: Known, field: str) -> Any:
    fact = known.get(field)
    return None if fact is None else fact[1]


def _first(values: Iterable[Any]) -> Any:
    """The first value that is known."""
    return next((v for v in values if v is not None), None)


def _earliest(values: Iterable[int | None]) -> int | None:
    return min((v for v in values if v is not None), default=None)


def _derive(id_: str, of: _Objects) -> Donation:
    amount, currency = _amount(of)
    paid_at = _paid_at(of)
    refunded = _refunded(of, amount)
    return Donation(
        id=id_,
        ticket=_first(
            [
                _value(of.intent, "ticket"),
                of.charge("ticket"),
                _value(of.session, "ticket"),
                _value(of.session, "reference"),
            ]
        ),
        status=_status(of, paid_at, refunded, amount),
        amount=amount,
        currency=currency,
        refunded=refunded,
        disputed=_disputed(of, amount, currency, refunded),
        created_at=_created_at(of),
        paid_at=paid_at,
        refunded_at=_refunded_at(of) if refunded else None,
        last_name=_first([of.charge("last_name"), _value(of.session, "last_name")]),
        country=_first([of.charge("country"), _value(of.session, "country")]),
        email_hash=_first([of.charge("email_hash"), _value(of.intent, "email_hash"), _value(of.session, "email_hash")]),
        session_id=of.session_id,
        charge_id=of.charges[0][0] if of.charges else None,
        account=_account(of),
    )


def _account(of: _Objects) -> str | None:
    newest: list[Any] = max((k["account"] for k in of.every() if "account" in k), default=[0, None])
    account: str | None = newest[1]
    return account


def _amount(of: _Objects) -> tuple[int | None, str | None]:
    """The amount and its currency: the first source that names an amount gives both."""
    sources = [
        *((known, "taken") for _, known in of.charges),
        (of.intent, "received"),
        (of.session, "amount"),
        (of.intent, "amount"),
        *((known, "amount") for _, known in of.charges),
    ]
    source, field = next(((k, f) for k, f in sources if _value(k, f) is not None), ({}, ""))
    named = (_value(k, "currency") for k in (*(c for _, c in of.charges), *_after_charges(of)))
    return _value(source, field), _value(source, "currency") or _first(named)


def _after_charges(of: _Objects) -> list[Known]:
    return [of.intent, of.session, *of.refunds, *of.disputes]


def _created_at(of: _Objects) -> int:
    created = _earliest([_value(of.session, "created"), _value(of.intent, "created")])
    seen = _earliest(known.get("seen") for known in of.every())
    return _first([created, of.charge("created"), seen, 0])  # type: ignore[no-any-return]


def _paid_at(of: _Objects) -> int | None:
    events = [of.intent.get("paid"), *(known.get("paid") for _, known in of.charges)]
    captured = _first(_value(known, "created") for _, known in of.charges if "captured" in known)
    return _first([_earliest(events), captured, of.session.get("paid")])  # type: ignore[no-any-return]


def _refunded(of: _Objects, amount: int | None) -> int:
    """The standing refunds, plus what the charge says beyond those it knew, less what was never captured."""
    standing: int = sum(_value(r, "amount") or 0 for r in of.refunds if "failed" not in r)
    snapshot = _first(known.get("returned") for _, known in of.charges)
    beyond = 0
    if snapshot is not None:
        at, returned = snapshot
        beyond = max(0, returned - sum(_value(r, "amount") or 0 for r in of.refunds if _belongs(r, at)))
    total: int = max(0, standing + beyond - _never_captured(of))
    return total if amount is None else min(total, amount)


def _belongs(refund: Known, at: int) -> bool:
    """Whether a charge's snapshot of that second counts this refund already."""
    created = _value(refund, "created")
    made = refund.get("seen", 0) if created is None else created
    return made <= at and not refund.get("failed", at) < at


def _never_captured(of: _Objects) -> int:
    """The part of an authorisation that was released: Stripe counts it as refunded."""
    authorised = of.charge("amount")
    if authorised is None:
        return 0
    taken: int = max(of.charge("taken") or 0, _value(of.intent, "received") or 0)
    never: int = max(0, authorised - taken)
    return never


def _refunded_at(of: _Objects) -> int | None:
    events = _earliest(known.get("refund_seen") for _, known in of.charges)
    refunds = _earliest(_value(r, "created") for r in of.refunds)
    return events if events is not None else refunds


def _disputed(of: _Objects, amount: int | None, currency: str | None, refunded: int) -> int:
    total = 0
    for dispute in of.disputes:
        stage, disputed = _value(dispute, "state") or [None, 0]
        if stage in TAKES_MONEY:
            same = _value(dispute, "currency") in (currency, None)
            total += disputed if same else amount or 0
    return total if amount is None else max(0, min(total, amount - refunded))


def _status(of: _Objects, paid_at: int | None, refunded: int, amount: int | None) -> str:
    if any((_value(d, "state") or [None])[0] in IS_DISPUTED for d in of.disputes):
        return "DISPUTED"
    if paid_at is not None:
        return "REFUNDED" if refunded and amount is not None and refunded >= amount else "PAID"
    if "expired" in of.session or "canceled" in of.intent:
        return "EXPIRED"
    if any("failed" in known for known in (of.intent, of.session, *(c for _, c in of.charges))):
        return "FAILED"
    return "CREATED"

"""Pure: what Stripe's objects say that the ledger's facts do not, and what that changes in donations (SPEC 12).

An object states everything at the time of its reading. Most of that the ledger knows from an event with an earlier
time: it is left out here, so that a fact keeps the time of its event, and so that a second comparison finds nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Struct

from daemon.ledger import money
from daemon.ledger.donation import Donation
from daemon.ledger.donation_objects import Subscriptions
from daemon.ledger.facts import DONOR_FIELDS, NEWEST, RULES, FactName, Facts, Family, ObjectFacts, PerKey, value
from daemon.ledger.journal import DonationEntries, JournalEntry

# Maps whose entries have the time of the reading. They say something new only together with this other fact.
RECORDS_OF = {
    FactName.HISTORY: FactName.STAGE,
    FactName.SNAPSHOTS: FactName.RETURNED,
    FactName.REFUNDS: FactName.RETURNED,
}
AMOUNTS = frozenset({"amount", "refunded", "disputed"})
TIMES = frozenset({"created_at", "paid_at", "refunded_at"})


class Difference(Struct, frozen=True):
    """A difference between the ledger and Stripe's objects.

    Attributes:
        subject: the id of a donation, of a subscription, whose ticket all its donations take, or of a ticket.
        field: the donation's field; `donation` for one that is missing; an entry of the journal with its kind, object
            and time; `totals`, if they are not the sum of a ticket's donations.
        ledger, stripe: what the ledger shows and what Stripe's objects give: an amount in major units with its
            currency, a time of RFC 3339, a text. None if there is no value, and for a field about the donor, which is
            not shown.
        is_read_time: the time is that of the reading, because only an event that was lost contained the correct one.
    """

    subject: str
    field: str
    ledger: str | None = None
    stripe: str | None = None
    is_read_time: bool = False

    def text(self) -> str:
        """A line for people."""
        subject = self.subject or "(no ticket)"
        match self.field:
            case "donation":
                return f"donation {subject} is missing; Stripe's objects show it as {self.stripe}"
            case "totals":
                return f"ticket {subject}: its totals are not the sum of its donations"
            case name if name in DONOR_FIELDS:
                return f"{subject}: {name} differs"
        line = f"{subject}: {self.field} is {self.ledger or 'not known'}, should be {self.stripe or 'none'}"
        return f"{line} (the time of the reading: only a lost event had its own)" if self.is_read_time else line


def news(known: Facts, stated: Facts, *, with_hashes: bool) -> Facts:
    """What `stated` adds to the known facts. Each object of `stated` is in the result, so that its ids remain tied.

    Args:
        with_hashes: also other e-mail hashes than those that are known; without it they are left as they are, because
            they may have been computed with another key.
    """
    return {
        family: {
            id_: _object_news(family, known.get(family, {}).get(id_, {}), each, with_hashes) for id_, each in of.items()
        }
        for family, of in stated.items()
    }


def has_news(known: Facts, found: Facts) -> bool:
    """Whether a result of `news` contains any fact, or an object that is not known."""
    return any(
        each or id_ not in known.get(family, {}) for family, objects in found.items() for id_, each in objects.items()
    )


def _object_news(family: Family, known: ObjectFacts, stated: ObjectFacts, with_hashes: bool) -> ObjectFacts:
    unwanted = set() if with_hashes or FactName.EMAIL_HASH not in known else {FactName.EMAIL_HASH}
    if FactName.ERASED in known or (family == Family.CHARGE and FactName.FAILED in known):
        unwanted |= DONOR_FIELDS
    if FactName.CAPTURED in known and FactName.CAPTURED in stated:
        unwanted.add(FactName.NOT_TAKEN)  # it only says that the charge had not taken money before that time
    wanted = {name: fact for name, fact in stated.items() if name not in unwanted}
    found: ObjectFacts = _new_facts(known, wanted, RULES[family])
    for name, recorded in RECORDS_OF.items():
        if recorded not in found:
            found.pop(name, None)
    if FactName.HISTORY in found:  # the times of a status that is known are those of its events
        found[FactName.HISTORY] = {
            status: kept
            for status, kept in stated[FactName.HISTORY].items()
            if status not in known.get(FactName.HISTORY, {})
        }
    return found


def _new_facts(known: Mapping[Any, Any], stated: Mapping[Any, Any], rules: Mapping[Any, Any]) -> dict[Any, Any]:
    found = {}
    for name, fact in stated.items():
        present, rule = known.get(name), rules[name]
        if isinstance(rule, PerKey):
            if inner := _new_facts(present or {}, fact, dict.fromkeys(fact, rule.each)):
                found[name] = inner
        elif present is None or (
            _is_newer(fact, present) if rule is NEWEST else _is_smaller_amount(name, fact, present)
        ):
            found[name] = fact
    return found


def _is_newer(stated: list[Any], present: list[Any]) -> bool:
    return stated > present and stated[1] != present[1]


def _is_smaller_amount(name: FactName, stated: int, present: int) -> bool:
    """Of the facts of which the smaller one counts only this one is an amount; a time that is known stays."""
    return name == FactName.RETURNED_LEAST and stated < present


def differences(before: DonationEntries, after: DonationEntries, read_at: int) -> Iterator[Difference]:
    """What changes in donations and their journal entries.

    Args:
        before, after: the donations of some facts without and with what Stripe's objects add.
        read_at: the time of the reading.
    """
    former = {donation.id: (donation, entries) for donation, entries in before}
    for donation, entries in after:
        names = (donation.id, donation.session_id, donation.charge_id)
        found = next((former[id_] for id_ in names if id_ is not None and id_ in former), None)
        if found is None:
            yield Difference(donation.id, "donation", None, str(donation.status))
            found = (_unknown(donation), [])
        fields = list(_field_differences(found[0], donation, read_at))
        yield from fields
        for difference in _entry_differences(donation, found[1], entries, read_at):
            if difference.is_read_time or not fields:
                yield difference


def subscription_differences(known: Subscriptions, news: Mapping[str, ObjectFacts]) -> Iterator[Difference]:
    """What changes in subscriptions, and with each of them in all its payments.

    Args:
        known: what is stored of them, by id.
        news: what is to be added.
    """
    for id_, added in sorted(news.items()):
        for name in sorted(added.keys() - {FactName.ACCOUNT}):
            yield Difference(id_, name, _text(value(known.get(id_, {}), name)), _text(added[name][1]))


def _unknown(donation: Donation) -> Donation:
    """A donation of which nothing is known but its id, its status and when it was created."""
    nothing = {field.name: None for field in msgspec.structs.fields(Donation) if field.required}
    known: dict[str, Any] = {"id": donation.id, "status": donation.status, "created_at": donation.created_at}
    return Donation(**{**nothing, "refunded": 0, "disputed": 0, **known})


def _field_differences(before: Donation, after: Donation, read_at: int) -> Iterator[Difference]:
    former = msgspec.structs.asdict(before)
    for name, due in msgspec.structs.asdict(after).items():
        was = former[name]
        if was == due:
            continue
        if name in DONOR_FIELDS:
            yield Difference(after.id, name)
        elif name in AMOUNTS:
            yield Difference(
                after.id, name, _amount(was, before.currency or after.currency), _amount(due, after.currency)
            )
        elif name in TIMES:
            yield Difference(after.id, name, _time(was), _time(due), due == read_at)
        else:
            yield Difference(after.id, name, _text(was), _text(due))


def _text(value: object) -> str | None:
    return value if isinstance(value, str | None) else "yes" if value else "no"


def _time(at: int | None) -> str | None:
    return None if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _amount(minor: int | None, currency: str | None) -> str | None:
    return None if minor is None else f"{money.major(minor, currency or 'USD')} {currency or '(no currency)'}"


def _entry_differences(
    donation: Donation, before: Sequence[JournalEntry], after: Sequence[JournalEntry], read_at: int
) -> Iterator[Difference]:
    was = {(entry.kind, entry.object, entry.at): entry.amount for entry in before}
    is_ = {(entry.kind, entry.object, entry.at): entry.amount for entry in after}
    for key in sorted(was.keys() | is_.keys(), key=lambda key: (key[2], key)):
        kind, object_id, at = key
        if was.get(key) != is_.get(key):
            former, due = (_amount(sums.get(key), donation.currency) for sums in (was, is_))
            name = f"entry {kind} {object_id} {_time(at)}"
            yield Difference(donation.id, name, former, due, at == read_at)

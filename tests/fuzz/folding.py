"""Any events -> their facts, merged in any order and batches, and the donations they add up to."""

import random
import zlib
from itertools import pairwise
from typing import Any

import msgspec

from daemon.ledger import donation_objects, journal, kept_facts, operator_actions, projection
from daemon.ledger.donation import Donation
from daemon.ledger.facts import DONOR_FIELDS, FactName, Facts, Family, merge, merge_into, object_ids, owners
from daemon.ledger.stripe_events import CannotApply, NotAnEvent, read
from tests.fuzz import mutation, seeds
from tests.fuzz.reading import ID
from tests.fuzz.target import Target

STATUSES = {"DISPUTED", "REFUNDED", "PAID", "EXPIRED", "FAILED", "CREATED"}
AT_US = seeds.START * 1_000_000
MOST_EVENTS = 40
# The keys of a seed's events; without the rest a mutation is likelier to meet what matters.
KEPT = frozenset(mutation.KEYS)


def check(lines: bytes) -> None:
    """Reads events, a line each; leaves out what is refused; folds the rest, and what an operator does to them."""
    parts = []
    for line in lines.split(b"\n")[:MOST_EVENTS]:
        try:
            facts = read(line, livemode=False, hash_key=None).facts
        except (NotAnEvent, CannotApply):
            continue
        if facts:
            parts.append(facts)
    if parts:
        rng = random.Random(zlib.crc32(lines))
        check_fold([*parts, *_acts(parts, rng)], rng)


def _acts(parts: list[Facts], rng: random.Random) -> list[Facts]:
    """What an operator does: nothing, mostly; an assignment, an erasure, or both."""
    merged = merge({}, *parts)
    assignable = sorted(owners(merged))
    erasable = sorted({*assignable, *kept_facts.donor_objects(merged)})
    done = []
    if assignable and rng.random() < 0.3:
        done.append(operator_actions.assign(merged, rng.choice(assignable), "story-2", actor="fuzz", at_us=AT_US))
    if erasable and rng.random() < 0.3:
        done.append(operator_actions.erase(merged, rng.choice(erasable), actor="fuzz", at_us=AT_US))
    return [act.facts for act in done]


def check_fold(parts: list[Facts], rng: random.Random) -> None:
    """Everything that must hold of these facts, whatever they say."""
    before = msgspec.json.encode(parts)
    merged = merge({}, *parts)
    _check_order(parts, merged, rng)
    subscriptions = merged.pop(Family.SUBSCRIPTION, {})
    shown = projection.donations(merged, subscriptions)
    for donation in shown:
        check_donation(donation)
    assert all(one.id < other.id for one, other in pairwise(shown)), "a donation shown twice"
    assert {donation.id for donation in shown} == set(owners(merged).values())
    _check_journal(merged, subscriptions)
    _check_apart(parts, subscriptions, shown)
    _check_forgetting(merged, subscriptions, shown)
    assert msgspec.json.encode(parts) == before, "merging changed what it was given"


def _check_order(parts: list[Facts], merged: Facts, rng: random.Random) -> None:
    """Commutative, associative, idempotent; and no order of keys decides what is shown."""
    mixed = rng.sample(parts, len(parts))
    cut = rng.randrange(len(parts) + 1)
    other = merge(merge({}, *mixed[:cut]), merge({}, *mixed[cut:], *mixed[:1]))
    assert other == merged, "the order or the batches decide"
    assert _derived(other) == _derived(merged), "the order of keys decides"
    assert not any([merge_into(other, part) for part in parts]), "a repetition is news"  # noqa: C419 - all of them
    assert merge(merged, merged) == merged, "not idempotent"


def _derived(facts: Facts) -> list[Donation]:
    return projection.donations(
        {family: of for family, of in facts.items() if family != Family.SUBSCRIPTION}, facts.get(Family.SUBSCRIPTION)
    )


def check_donation(donation: Donation) -> None:
    """Amounts are exact and within each other, times and texts of their forms, the status follows from the rest."""
    amount = donation.amount
    assert amount is None or (type(amount) is int and amount > 0), "an amount that is none"
    assert type(donation.refunded) is int, "a refund that is no whole number"
    assert type(donation.disputed) is int, "a dispute that is no whole number"
    assert donation.refunded >= 0, "a negative refund"
    assert donation.disputed >= 0, "a negative dispute"
    assert amount is None or donation.refunded + donation.disputed <= amount, "more went back than came"
    assert donation.status in STATUSES
    assert donation.status not in {"PAID", "REFUNDED"} or donation.paid_at is not None, "paid at no time"
    if donation.status == "REFUNDED":
        assert donation.refunded == amount, "refunded in part"
    if donation.status == "PAID":
        assert not 0 < (amount or 0) == donation.refunded, "refunded and shown as paid"
    assert donation.refunded or donation.refunded_at is None
    assert type(donation.created_at) is int
    assert donation.created_at >= 0
    assert ID(donation.id)


def _check_journal(merged: Facts, subscriptions: donation_objects.Subscriptions) -> None:
    """The entries of each donation add up to its figures."""
    for id_, objects in donation_objects.by_donation(merged, subscriptions).items():
        donation = projection.derive(id_, objects)
        entries = journal.entries(donation, objects)
        sums = tuple(sum(entry.amount for entry in entries if entry.kind == kind) for kind in journal.KINDS)
        paid = donation.amount or 0, donation.refunded, donation.disputed
        assert sums == (paid if donation.paid_at is not None else (0, 0, 0)), "entries that are not the figures"


def _check_apart(parts: list[Facts], subscriptions: donation_objects.Subscriptions, shown: list[Donation]) -> None:
    """What shares no id has nothing to do with each other: each group by itself gives the same donations."""
    groups: list[tuple[set[str], list[Facts]]] = []
    for part in parts:
        ids, members = set(object_ids(part)), [part]
        for group in [group for group in groups if group[0] & ids]:
            groups.remove(group)
            ids |= group[0]
            members += group[1]
        groups.append((ids, members))
    if len(groups) > 1:
        apart = [
            donation for _, members in groups for donation in projection.donations(merge({}, *members), subscriptions)
        ]
        assert sorted(apart, key=lambda donation: donation.id) == shown, "strangers speak for each other"


def _check_forgetting(merged: Facts, subscriptions: donation_objects.Subscriptions, shown: list[Donation]) -> None:
    """An erased donor is gone, stays gone when everything is delivered again, and takes no money along."""
    forgotten = kept_facts.redact(merged)
    again = kept_facts.redact(merge(forgotten, merged))
    for known in (known for objects in again.values() for known in objects.values() if FactName.ERASED in known):
        assert not DONOR_FIELDS & known.keys(), "an erased donor came back"
    assert again == forgotten, "a redelivery changes what was forgotten"
    assert [_money(d) for d in projection.donations(forgotten, subscriptions)] == [_money(d) for d in shown], (
        "erasing changed more"
    )


def _money(donation: Donation) -> Donation:
    return msgspec.structs.replace(donation, last_name=None, country=None, email_hash=None)


def _pruned(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _pruned(inner) for key, inner in value.items() if key in KEPT}
    return [_pruned(inner) for inner in value] if isinstance(value, list) else value


def _batches(seed: int) -> list[bytes]:
    return [
        b"\n".join(msgspec.json.encode(_pruned(event)) for event in events)
        for events in seeds.payments(seed, 120, longest=8)
    ]


TARGET = Target(check, _batches, mutation.batch, longest=32 * 1024)

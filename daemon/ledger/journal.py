"""Pure: the movements of money that a donation's facts show, and the journal's entries that they make (SPEC 9).

A movement is what an object of Stripe's moved, and when. It is derived from facts, so it knows no order of events. An
entry is the change that a movement makes to one of the donation's three figures, within the limits that SPEC 3 sets to
them: so the entries of a donation add up to its figures.
"""

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from operator import attrgetter
from typing import Any

import msgspec

from daemon.ledger import donation_objects, payment_times, projection
from daemon.ledger.donation import Donation
from daemon.ledger.donation_objects import Objects, Subscriptions
from daemon.ledger.facts import RANKS, STAGE_OF_UNKNOWN, FactName, Facts, Family, ObjectFacts, value
from daemon.ledger.payment_times import LateFailure
from daemon.ledger.refunds import Refunds

KINDS = ("payment", "refund", "dispute")  # the figure that an entry adds to


class Movement(msgspec.Struct, frozen=True):
    """What an object moved at one second, in minor units.

    Attributes:
        payments: by how much it changes the number of payments that stand; a further capture changes it by nothing.
        whole: by how much it changes the number of open disputes that take the donation's whole amount, whatever it is
            at the time: those in another currency.
    """

    kind: str
    object_id: str
    effective_at: int
    amount: int
    payments: int = 0
    whole: int = 0

    @property
    def order(self) -> tuple[int, int, bool, str]:
        """By time, then payment, refund, dispute, then increases first, then object id."""
        return self.effective_at, KINDS.index(self.kind), self.amount < 0 or self.whole < 0, self.object_id


class JournalEntry(msgspec.Struct, frozen=True):
    """What a movement adds to one figure of its donation. `at` is the movement's time."""

    kind: str
    object: str
    at: int
    amount: int


DonationEntries = Sequence[tuple[Donation, list[JournalEntry]]]


class _Sums:
    """What the movements so far add up to, before the limits."""

    def __init__(self, donation: Donation, deficit: int) -> None:
        self.is_limited = donation.amount is not None
        self.deficit = deficit
        self.payments = 0
        self.whole = 0
        self.amounts = dict.fromkeys(KINDS, 0)

    def apply(self, movement: Movement) -> None:
        """One more movement."""
        self.payments += movement.payments
        self.whole += movement.whole
        self.amounts[movement.kind] += movement.amount

    def figures(self) -> tuple[int, int, int]:
        """Paid, refunded and disputed, with the limits of SPEC 3. Nothing counts while no payment stands."""
        if not self.payments:
            return 0, 0, 0
        paid, refunded, disputed = self.amounts.values()
        refunded = max(0, refunded - self.deficit)
        if self.is_limited:
            refunded = min(refunded, paid)
            disputed = max(0, min(paid if self.whole else disputed, paid - refunded))
        return paid, refunded, disputed


def derive(facts: Facts, subscriptions: Subscriptions) -> list[tuple[Donation, list[JournalEntry]]]:
    """Every donation in these facts, by id, with its entries. Arguments as projection.donations."""
    found = [
        (projection.derive(id_, of), of)
        for id_, of in sorted(donation_objects.by_donation(facts, subscriptions).items())
    ]
    return [(donation, entries(donation, of)) for donation, of in found]


def digest(derived: DonationEntries) -> int:
    """A number of 64 bits that, but for one chance in 2**64, only equal entries of equal donations have."""
    keys = [(d.id, d.ticket, d.currency, of) for d, of in derived]
    return int.from_bytes(blake2b(msgspec.json.encode(keys), digest_size=8).digest(), "big", signed=True)


def entries(donation: Donation, objects: Objects) -> list[JournalEntry]:
    """The entries of one donation, one per kind, object and time; none if it was never paid."""
    failures = payment_times.late_failures(objects)
    if donation.paid_at is None and not failures:
        return []
    if not failures and (payment := _only_payment(donation, objects)):  # nearly always
        return [payment]
    return every_entry(donation, objects, failures)


def _only_payment(donation: Donation, objects: Objects) -> JournalEntry | None:
    """The one entry of a payment that was captured at once and that nothing changed afterwards, if it is such a one.

    It is a short cut: `every_entry` finds the same.
    """
    amount, paid_at, members = donation.amount, donation.paid_at, objects.members
    if not amount or paid_at is None or donation.refunded or members[Family.REFUND] or members[Family.DISPUTE]:
        return None
    captured = {str(amount): paid_at}
    for family, name in ((Family.CHARGE, FactName.TAKEN), (Family.PAYMENT_INTENT, FactName.RECEIVED)):
        for _, known in members[family]:
            if name in known and known[name][1] != amount:
                return None
            if known.get(FactName.CAPTURES, captured).keys() != captured.keys():
                return None
    return JournalEntry("payment", _paying_charge(donation, objects), paid_at, amount)


def every_entry(donation: Donation, objects: Objects, failures: Sequence[LateFailure]) -> list[JournalEntry]:
    """The entries, whatever moved."""
    moved = list(_payments(donation, objects, failures))
    if not moved:
        return []
    deficit = 0
    if donation.refunded or objects.members[Family.REFUND]:
        refunds = Refunds.of(objects)
        moved += _refunds(objects, refunds)
        deficit = max(0, refunds.hold - refunds.beyond)
    moved += _disputes(donation, objects)
    sums = _Sums(donation, deficit)
    changes: dict[tuple[str, str, int], int] = {}
    before = sums.figures()
    for movement in sorted(moved, key=attrgetter("order")):
        sums.apply(movement)
        after = sums.figures()
        for kind, was, is_ in zip(KINDS, before, after, strict=True):
            if was != is_:
                key = kind, movement.object_id, movement.effective_at
                changes[key] = changes.get(key, 0) + is_ - was
        before = after
    return [JournalEntry(*key, amount) for key, amount in changes.items() if amount]


def _payments(donation: Donation, objects: Objects, failures: Sequence[LateFailure]) -> Iterator[Movement]:
    """The payments that late failures took back, and the one that counts."""
    for charge in failures:
        if charge.paid_at is not None and charge.paid_at <= charge.failed_at:
            reached = _reached(charge.known, FactName.TAKEN, charge.known[FactName.TAKEN][1])
            brought = [m for m in _payment(charge.id, reached, charge.paid_at) if m.effective_at <= charge.failed_at]
            yield from brought
            yield Movement("payment", charge.id, charge.failed_at, -sum(m.amount for m in brought), -1)
    if donation.paid_at is not None:
        amount = donation.amount or 0
        since = max((failure.failed_at for failure in failures), default=0)
        reached = list(_reached_since(since, objects, amount))
        if max((each for _, each in reached), default=-1) < amount:  # the amount is not known from captures
            reached = [(donation.paid_at, amount)]
        yield from _payment(_paying_charge(donation, objects), reached, donation.paid_at)


def _reached_since(since: int, objects: Objects, most: int) -> Iterator[tuple[int, int]]:
    """As `_reached`, by the donation's charge and its PaymentIntent. What a failed charge captured, and what the
    PaymentIntent had received before the last late failure, was taken back.

    Args:
        since: the time of that failure.
    """
    for known, name in projection.amount_sources(objects):
        if name == FactName.RECEIVED:
            yield from (each for each in _reached(known, name, most) if each[0] >= since)
        elif donation_objects.holds_money(known):
            yield from _reached(known, name, most)


def _payment(object_id: str, reached: list[tuple[int, int]], paid_at: int) -> Iterator[Movement]:
    """A payment of what was captured by then (else of the first capture), and its further captures.

    Args:
        reached: the times at which amounts were stated.
    """
    so_far = max((amount for at, amount in reached if at <= paid_at), default=min(amount for _, amount in reached))
    yield Movement("payment", object_id, paid_at, so_far, 1)
    for at, amount in sorted(reached):
        if amount > so_far:
            yield Movement("payment", object_id, at, amount - so_far)
            so_far = amount


def _reached(known: ObjectFacts, name: FactName, most: int) -> list[tuple[int, int]]:
    """When an object first stated which captured amounts, none above `most`. The newest one counts at its own time if
    an older release did not keep the earliest."""
    captures = known.get(FactName.CAPTURES, {})
    reached = [(at, min(int(amount), most)) for amount, at in captures.items()]
    at, newest = known[name]
    return reached if str(newest) in captures else [*reached, (at, min(newest, most))]


def _paying_charge(donation: Donation, objects: Objects) -> str:
    """The charge that took the money; the donation's own id while none is known."""
    charges = objects.members[Family.CHARGE]
    return charges[0][0] if charges and donation_objects.holds_money(charges[0][1]) else donation.id


def _refunds(objects: Objects, refunds: Refunds) -> Iterator[Movement]:
    for id_, known in objects.members[Family.REFUND]:
        amount = value(known, FactName.AMOUNT) or 0
        if amount:
            created = value(known, FactName.CREATED)
            yield Movement("refund", id_, known[FactName.AMOUNT][0] if created is None else created, amount)
            if FactName.FAILED in known:
                yield Movement("refund", id_, known[FactName.FAILED], -amount)
    yield from _unnamed_refunds(objects, refunds)


def _unnamed_refunds(objects: Objects, refunds: Refunds) -> Iterator[Movement]:
    """What the charge's snapshots count beyond the known refunds and the released hold, as it grew to what it is."""
    in_the_end = refunds.beyond - refunds.hold
    if in_the_end <= 0:
        return
    id_, charge = next((id_, known) for id_, known in objects.members[Family.CHARGE] if FactName.RETURNED in known)
    snapshots = {(at, int(returned)) for returned, at in charge.get(FactName.REFUNDS, {}).items()}
    snapshots |= {(at, returned) for at, returned in charge.get(FactName.SNAPSHOTS, {}).values()}
    so_far = 0
    for at, returned in sorted(snapshots | {tuple(charge[FactName.RETURNED])}):
        shown = min(refunds.beyond_in(at, returned) - refunds.hold, in_the_end)
        if shown > so_far:
            yield Movement("refund", id_, at, shown - so_far)
            so_far = shown


def _disputes(donation: Donation, objects: Objects) -> Iterator[Movement]:
    for id_, known in objects.members[Family.DISPUTE]:
        is_foreign = value(known, FactName.CURRENCY) not in (donation.currency, None)
        taken = 0
        for at, state in sorted(states(known).items()):
            stage, amount, _ = state
            takes = 0 if stage not in projection.TAKES_MONEY else 1 if is_foreign else amount
            if takes != taken and is_foreign:
                yield Movement("dispute", id_, at, 0, whole=takes - taken)
            elif takes != taken:
                yield Movement("dispute", id_, at, takes - taken)
            taken = takes


def states(dispute: ObjectFacts) -> dict[int, list[Any]]:
    """The dispute's state at the end of each second in which an event is known: stage, amount, status."""
    stated = [dispute[FactName.STAGE]] if FactName.STAGE in dispute else []
    for status, kept in dispute.get(FactName.HISTORY, {}).items():
        stage = RANKS.get(status, STAGE_OF_UNKNOWN)
        for at, amount in kept.values():
            stated.append([abs(at), [stage, amount, status]])
    found: dict[int, list[Any]] = {}
    for at, state in stated:
        found[at] = max(found.get(at, state), state)
    return found

"""Pure: when a donation was paid, and the payments that failed afterwards (SPEC 3, paidAt and late failure)."""

from collections.abc import Iterator, Sequence

import msgspec

from daemon.ledger.donation_objects import NEVER, Objects, failed_late, holds_money
from daemon.ledger.facts import FactName, Family, ObjectFacts, value


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


def paid_at(objects: Objects) -> int | None:
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

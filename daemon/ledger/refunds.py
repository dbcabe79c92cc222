"""Pure: what of a donation was refunded, and since when (SPEC 3, refundedAmount and refundedAt)."""

import msgspec

from daemon.ledger.donation_objects import Objects
from daemon.ledger.facts import FactName, Family, ObjectFacts, value


def refunded(objects: Objects, amount: int | None) -> tuple[int, int | None]:
    """The refunded amount, and since when it is not zero."""
    charges = objects.members[Family.CHARGE]
    if not objects.members[Family.REFUND] and not any(value(known, FactName.RETURNED) for _, known in charges):
        return 0, None  # nearly always
    refunds = Refunds.of(objects)
    total = refunds.total(amount)
    return total, _refunded_at(objects, refunds.hold) if total else None


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

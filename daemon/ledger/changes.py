"""What can be recorded, and what becomes of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

import msgspec

from daemon.ledger.facts import Facts, object_ids
from daemon.ledger.operator_actions import OperatorAction
from daemon.ledger.stripe_events import CannotApply, StripeEvent, read


class ReceivedEvent(msgspec.Struct, frozen=True):
    """One event to record. `error` is the scrubbed reason why it can't be applied, else None."""

    event: StripeEvent
    error: str | None = None

    @classmethod
    def read(
        cls, body: bytes, *, livemode: bool, hash_key: bytes | None, account: str | None = None
    ) -> "ReceivedEvent":
        """Reads an event, also one that cannot be applied. Arguments and NotAnEvent as stripe_events.read."""
        try:
            return cls(read(body, livemode=livemode, hash_key=hash_key, account=account))
        except CannotApply as failure:
            return cls(failure.event, failure.reason)

    @property
    def facts(self) -> Facts:
        """The facts that the event states; none if it changes nothing."""
        return self.event.facts or {}

    @property
    def ids(self) -> set[str]:
        """The objects that it ties together."""
        return object_ids(self.facts)


class Derivation(msgspec.Struct, frozen=True):
    """A stored row to be derived again from its facts, by today's rules. `id` is the row's."""

    id: str

    @property
    def facts(self) -> Facts:
        """It states no facts of its own."""
        return {}

    @property
    def ids(self) -> set[str]:
        """The row's id."""
        return {self.id}


class ReadObjects(msgspec.Struct, frozen=True):
    """Facts that objects of Stripe's API state. `cause` is what their journal entries are booked for."""

    facts: Facts
    cause: str

    @property
    def ids(self) -> set[str]:
        """The objects that it ties together."""
        return object_ids(self.facts)


Change = ReceivedEvent | OperatorAction | Derivation | ReadObjects


class Result(StrEnum):
    """What became of a change."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"  # an event that had been recorded before
    IGNORED = "ignored"  # an event that changes nothing; it is recorded
    FAILED = "failed"  # an event that can't be applied; it is recorded with the reason


class Outcome(NamedTuple):
    """What became of one change. `error` is the scrubbed reason of a failure, else None."""

    result: Result
    error: str | None = None


APPLIED, DUPLICATE, IGNORED = Outcome(Result.APPLIED), Outcome(Result.DUPLICATE), Outcome(Result.IGNORED)


@dataclass
class Recorded:
    """What was recorded so far.

    `new` contains the ids of events that are recorded now (or had failed before), `rejected` the ids of those among
    them whose facts the database rejected, with the scrubbed reason.
    """

    new: set[str] = field(default_factory=set)
    rejected: dict[str, str] = field(default_factory=dict)

    def outcomes(self, changes: Sequence[Change]) -> list[Outcome]:
        """One per change. A second copy of an event that was applied is a duplicate; one that failed fails again."""
        answered: set[str] = set()
        outcomes = []
        for change in changes:
            if isinstance(change, ReceivedEvent):
                outcomes.append(self._outcome(change, is_copy=change.event.id in answered))
                answered.add(change.event.id)
            else:
                outcomes.append(APPLIED)
        return outcomes

    def _outcome(self, change: ReceivedEvent, *, is_copy: bool) -> Outcome:
        event = change.event
        if event.id not in self.new:
            return DUPLICATE
        if (error := self.rejected.get(event.id, change.error)) is not None:
            return Outcome(Result.FAILED, error)
        if is_copy:
            return DUPLICATE
        return APPLIED if event.facts is not None else IGNORED

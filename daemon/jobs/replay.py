"""Reads events from Stripe's event list and records them as a webhook does (SPEC 12): `donationd replay`.

Events that were recorded before change nothing, and those that failed are tried again, so any event may be read twice.
"""

import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec
from msgspec import Struct

from daemon.jobs.list_walk import Position, walk
from daemon.jobs.runs import RunDependencies, load_state, save_state
from daemon.ledger import queues
from daemon.ledger.changes import ReceivedEvent, Result
from daemon.ledger.queues import FAILED_POSITION
from daemon.ledger.stripe_events import NotAnEvent
from daemon.stripe_api.events import PATH, find_event

NOT_IN_LIST = "Stripe does not have it: it is older than 30 days, or of another account or mode"
FAILED_EVENTS = 200  # are read from the ledger at a time


class Replayed(Struct, frozen=True):
    """How many events were read so far, by what became of them."""

    applied: int = 0
    seen_before: int = 0
    ignored: int = 0
    failed: int = 0

    def plus(self, other: "Replayed") -> "Replayed":
        """Both together."""
        sums = {name: getattr(self, name) + getattr(other, name) for name in self.__struct_fields__}
        return Replayed(**sums)

    @property
    def total(self) -> int:
        """All of them."""
        return self.applied + self.seen_before + self.ignored + self.failed


class ReplayState(Struct, frozen=True):
    """How far a run through the event list is.

    Attributes:
        since: the Unix second that was asked for.
        begun_at: the Unix second at which the run began.
        accounts: what is left to read: connected accounts, and None for the key's own. The first one is being read.
    """

    since: int
    begun_at: int
    accounts: tuple[str | None, ...]
    position: Position
    replayed: Replayed = Replayed()

    def next_account(self) -> "ReplayState":
        """The next account's list, from its head."""
        return msgspec.structs.replace(self, accounts=self.accounts[1:], position=Position(self.since))


class Failed(Struct, frozen=True):
    """An event that could not be applied, and the reason, without any value of the event."""

    event: str
    reason: str


Progress = Callable[[Replayed], Awaitable[None]]
OnFailure = Callable[[Failed], None]


async def _no_progress(_replayed: Replayed) -> None:
    pass


def _ignore(_failed: Failed) -> None:
    pass


async def replay(
    deps: RunDependencies,
    since: int,
    *,
    kind: str = "replay",
    progress: Progress = _no_progress,
    on_failure: OnFailure = _ignore,
) -> Replayed:
    """Records every event that Stripe's list has since a Unix second, and returns how many there were.

    A run that was interrupted is continued, if it began at the same second or before.

    Args:
        kind: which run it is; runs of several kinds are interrupted and continued independently.
        progress: is called after each page.
        on_failure: is called for each event that cannot be applied.

    Raises:
        StripeUnavailable, StripeRejected, DatabaseUnavailable, StatementRejected: what was recorded until then stays,
        and the next run continues.
    """
    state = await load_state(deps.database, kind, ReplayState)
    if state is None or not state.accounts or state.since > since:
        state = ReplayState(since, int(time.time()), (None, *await deps.connected_accounts()), Position(since))
    while state.accounts:
        account = state.accounts[0]
        async for page in walk(deps.stripe, PATH, {}, state.position, account=account):
            replayed = await record(deps, [bytes(each) for each in page.objects], account, on_failure)
            state = msgspec.structs.replace(state, position=page.position, replayed=state.replayed.plus(replayed))
            await save_state(deps.database, kind, state)
            await progress(state.replayed)
        state = state.next_account()
        await save_state(deps.database, kind, state)
    return state.replayed


async def record(
    deps: RunDependencies, bodies: Sequence[bytes], account: str | None, on_failure: OnFailure = _ignore
) -> Replayed:
    """Records some events, and returns how many there were.

    Args:
        bodies: their JSON.
        account: the connected account whose list they are from; None: the key's own.
    """
    received, counts = [], dict.fromkeys(Replayed.__struct_fields__, 0)
    for body in bodies:
        try:
            received.append(ReceivedEvent.read(body, livemode=deps.livemode, hash_key=deps.hash_key, account=account))
        except NotAnEvent as rejection:
            counts["failed"] += 1
            on_failure(Failed("", str(rejection)))
    outcomes = await deps.recorder.record(received)
    for each, outcome in zip(received, outcomes, strict=True):
        counts[COUNTED_AS[outcome.result]] += 1
        if outcome.error is not None:
            on_failure(Failed(each.event.id, outcome.error))
    return Replayed(**counts)


COUNTED_AS = {
    Result.APPLIED: "applied",
    Result.DUPLICATE: "seen_before",
    Result.IGNORED: "ignored",
    Result.FAILED: "failed",
}


async def replay_events(deps: RunDependencies, events: Sequence[str], on_failure: OnFailure = _ignore) -> Replayed:
    """Reads single events by their ids, and records them. One that Stripe does not have counts as failed."""
    replayed, connected = Replayed(), await deps.connected_accounts()
    for event in events:
        found = await find_event(deps.stripe, event, connected)
        if found is None:
            on_failure(Failed(event, NOT_IN_LIST))
            replayed = replayed.plus(Replayed(failed=1))
        else:
            replayed = replayed.plus(await record(deps, [found.body], found.account, on_failure))
    return replayed


async def replay_failed(
    deps: RunDependencies, progress: Progress = _no_progress, on_failure: OnFailure = _ignore
) -> Replayed:
    """The same for all events on record that could not be applied, without those that were dismissed."""
    replayed, after = Replayed(), None
    while rows := await queues.failed_events(deps.database, FAILED_EVENTS, after=after):
        replayed = replayed.plus(await replay_events(deps, [row.id for row in rows], on_failure))
        await progress(replayed)
        after = FAILED_POSITION.fullmatch(rows[-1].position)
    return replayed

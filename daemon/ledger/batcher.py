"""Batches without a timer: events that arrive while a statement runs wait, and the next statement writes all of them.

When no statement runs, an event is written at once; under load batches grow. Two batches may be in flight: while
PostgreSQL writes one, this process reads and merges the next. They share no event and no Stripe object, so that neither
needs rows which the other one changes. (Where only stored rows connect two objects, the recorder notices it and reads
again.) How events are divided into batches does not change the ledger.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from daemon.ledger.changes import Outcome, ReceivedEvent, Result
from daemon.ledger.events.event_facts import Attempt

# A statement takes time in proportion to its batch, and each request in it waits for all of it; beyond some hundred
# events a larger batch saves hardly anything per event.
BATCH_EVENTS = 256
BATCH_BYTES = 4 * 1024 * 1024  # of bodies: four times the largest body that is accepted
BATCHES = 2  # in flight; each needs a connection of its own
# A batch of one event costs as much as ten more events of another batch. So beside a batch in flight another one begins
# only when so many events wait; fewer of them wait for its end.
SECOND_BATCH_EVENTS = 32


class Overloaded(Exception):
    """The maximum number of events is waiting; this one was rejected."""


class Writer(Protocol):
    """What a batcher writes with: a Recorder."""

    async def record(self, changes: Sequence[ReceivedEvent]) -> Sequence[Outcome]: ...


# Called once with the outcome of an event, or with the error that its batch ended with. It must not raise.
OnRecorded = Callable[[Outcome | Exception], None]


@dataclass(slots=True)
class _WaitingEvent:
    received: ReceivedEvent
    size: int
    ids: set[str]  # its own, and those of its objects
    on_recorded: OnRecorded


class Batcher:
    """Few writers for many requests.

    Args:
        writer: writes a batch, durably when it returns; up to BATCHES at the same time.
        limit: events that may wait; more are rejected at once, so that memory and waiting stay bounded.
        on_written: is called after each batch with the number of its events, and the `created` of the newest event
            that was applied (0 if none was).
        on_attempt: is called with the attempt to pay that an event reports, when the event has been applied.
    """

    def __init__(
        self,
        writer: Writer,
        limit: int,
        on_written: Callable[[int, int], None] = lambda _count, _newest_s: None,
        on_attempt: Callable[[Attempt], None] = lambda _attempt: None,
    ) -> None:
        self._writer = writer
        self._limit = limit
        self._on_written = on_written
        self._on_attempt = on_attempt
        self._waiting: deque[_WaitingEvent] = deque()
        self._held_back = 0  # of those that wait, how many are known to have to wait for a batch in flight
        self._writing: set[asyncio.Task[None] | None] = set()
        self._in_flight: list[set[str]] = []  # the ids of each batch

    @property
    def waiting(self) -> int:
        """How many events wait until a running statement ends."""
        return len(self._waiting)

    async def record(self, received: ReceivedEvent, size: int) -> Outcome:
        """As `submit`, but returns the outcome, or raises the error."""
        recorded: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def on_recorded(result: Outcome | Exception) -> None:
            if recorded.done():  # the request was cancelled meanwhile
                return
            if isinstance(result, Exception):
                recorded.set_exception(result)
            else:
                recorded.set_result(result)

        self.submit(received, size, on_recorded)
        return await recorded

    def submit(self, received: ReceivedEvent, size: int, on_recorded: OnRecorded) -> None:
        """Records one event, in one batch with other waiting events.

        Args:
            size: of the event's body, in bytes.
            on_recorded: gets DatabaseUnavailable or StatementRejected, as Recorder.record, for the whole batch.

        Raises:
            Overloaded: the maximum number of events is waiting.
        """
        if len(self._waiting) >= self._limit:
            raise Overloaded
        self._waiting.append(_WaitingEvent(received, size, {received.event.id, *received.ids}, on_recorded))
        if len(self._writing) < BATCHES and self._is_due(beside=len(self._writing)):
            # The task takes its batch after all requests that arrived together with this one.
            self._writing.add(asyncio.create_task(self._write()))

    def _is_due(self, *, beside: int) -> bool:
        """Whether a batch begins now, beside so many others."""
        return len(self._waiting) - self._held_back >= (SECOND_BATCH_EVENTS if beside else 1)

    async def _write(self) -> None:
        """Writes one batch after the other. While events wait, there is always such a task."""
        try:
            while self._is_due(beside=len(self._in_flight)) and (batch := self._next_batch()):
                ids = set[str]().union(*(event.ids for event in batch))
                self._in_flight.append(ids)
                try:
                    await self._write_batch(batch)
                finally:
                    self._in_flight.remove(ids)
                    self._held_back = 0
        finally:
            self._writing.discard(asyncio.current_task())

    def _next_batch(self) -> list[_WaitingEvent]:
        """The events that have waited longest, without those that share an id with a batch in flight, or with an
        earlier event that stays for that reason."""
        taken = set[str]().union(*self._in_flight)
        batch: list[_WaitingEvent] = []
        held_back: list[_WaitingEvent] = []
        size = 0
        while self._waiting and len(batch) < BATCH_EVENTS:
            event = self._waiting[0]
            if not taken.isdisjoint(event.ids):
                taken |= event.ids
                held_back.append(event)
            elif not batch or size + event.size <= BATCH_BYTES:
                batch.append(event)
                size += event.size
            else:
                break
            self._waiting.popleft()
        self._waiting.extendleft(reversed(held_back))
        self._held_back = len(held_back)
        return batch

    async def _write_batch(self, batch: list[_WaitingEvent]) -> None:
        try:
            outcomes = await self._writer.record([event.received for event in batch])
        except Exception as error:
            for event in batch:
                event.on_recorded(error)
            return
        newest_s = 0
        for event, outcome in zip(batch, outcomes, strict=True):
            event.on_recorded(outcome)
            if outcome.result is Result.APPLIED:
                newest_s = max(newest_s, event.received.event.created)
                if (attempt := event.received.event.attempt) is not None:
                    self._on_attempt(attempt)
        self._on_written(len(batch), newest_s)

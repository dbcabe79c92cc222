"""Batches without a timer: events that arrive while a statement runs wait, and the next statement writes all of them.

When no statement runs, an event is written at once; under load batches grow. How events are divided into batches does
not change the ledger.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from daemon.ledger.recorder import Outcome, ReceivedEvent, Result

# A statement takes time in proportion to its batch, and each request in it waits for all of it; beyond some hundred
# events a larger batch saves hardly anything per event.
BATCH_EVENTS = 256
BATCH_BYTES = 4 * 1024 * 1024  # of bodies: four times the largest body that is accepted


class Overloaded(Exception):
    """The maximum number of events is waiting; this one was rejected."""


class Writer(Protocol):
    """What a batcher writes with: a Recorder."""

    async def record(self, changes: Sequence[ReceivedEvent]) -> Sequence[Outcome]: ...


@dataclass(slots=True)
class _WaitingEvent:
    received: ReceivedEvent
    size: int
    outcome: asyncio.Future[Outcome]


class Batcher:
    """One writer for many requests.

    Args:
        writer: writes one batch at a time, durably when it returns.
        limit: events that may wait; more are rejected at once, so that memory and waiting stay bounded.
        on_written: is called after each batch with the number of its events, and the `created` of the newest event
            that was applied (0 if none was).
    """

    def __init__(
        self, writer: Writer, limit: int, on_written: Callable[[int, int], None] = lambda _count, _newest_s: None
    ) -> None:
        self._writer = writer
        self._limit = limit
        self._on_written = on_written
        self._waiting: deque[_WaitingEvent] = deque()
        self._writing: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """How many events wait until the running statement ends."""
        return len(self._waiting)

    async def record(self, received: ReceivedEvent, size: int) -> Outcome:
        """As `submit`, but returns the outcome itself."""
        return await self.submit(received, size)

    def submit(self, received: ReceivedEvent, size: int) -> asyncio.Future[Outcome]:
        """Records one event, in one batch with other waiting events. Returns the future outcome of this event.

        The future fails with DatabaseUnavailable or StatementRejected, as Recorder.record, for the whole batch.

        Args:
            size: of the event's body, in bytes.

        Raises:
            Overloaded: the maximum number of events is waiting.
        """
        if len(self._waiting) >= self._limit:
            raise Overloaded
        event = _WaitingEvent(received, size, asyncio.get_running_loop().create_future())
        self._waiting.append(event)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
        return event.outcome

    async def _write(self) -> None:
        try:
            while self._waiting:
                await self._write_batch(self._next_batch())
        finally:
            self._writing = None

    def _next_batch(self) -> list[_WaitingEvent]:
        batch = [self._waiting.popleft()]
        size = batch[0].size
        while self._waiting and len(batch) < BATCH_EVENTS and size + self._waiting[0].size <= BATCH_BYTES:
            batch.append(self._waiting.popleft())
            size += batch[-1].size
        return batch

    async def _write_batch(self, batch: list[_WaitingEvent]) -> None:
        try:
            outcomes = await self._writer.record([event.received for event in batch])
        except Exception as error:
            for event in batch:
                if not event.outcome.done():  # it is done if the request was cancelled meanwhile
                    event.outcome.set_exception(error)
            return
        newest_s = 0
        for event, outcome in zip(batch, outcomes, strict=True):
            if not event.outcome.done():
                event.outcome.set_result(outcome)
            if outcome.result is Result.APPLIED:
                newest_s = max(newest_s, event.received.event.created)
        self._on_written(len(batch), newest_s)

"""Natural batching: events that arrive while a statement runs wait, and the next statement writes all of them.

There is no timer, and no waiting when nothing else runs; under load batches grow by themselves. Facts merge in any
batches to the same ledger.
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
BATCH_BYTES = 4 * 1024 * 1024  # of bodies; four of the largest that are accepted


class Overloaded(Exception):
    """The maximum number of events is waiting; this one was rejected."""


class Writer(Protocol):
    """What a batcher writes with: a Recorder."""

    async def record(self, changes: Sequence[ReceivedEvent]) -> Sequence[Outcome]: ...


@dataclass(slots=True)
class _Waiting:
    received: ReceivedEvent
    size: int
    done: asyncio.Future[Outcome]


class Batcher:
    """One writer for many requests.

    Args:
        writer: writes one batch at a time, durably when it returns.
        limit: events that may wait; more are rejected at once, so that memory and waiting stay bounded.
        observe: is called after each batch with the number of its events, and the `created` of the newest event that
            was applied (0 if none was).
    """

    def __init__(
        self, writer: Writer, limit: int, observe: Callable[[int, int], None] = lambda _size, _newest_s: None
    ) -> None:
        self._writer = writer
        self._limit = limit
        self._observe = observe
        self._waiting: deque[_Waiting] = deque()
        self._writing: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Events that wait for the statement that runs."""
        return len(self._waiting)

    async def record(self, received: ReceivedEvent, size: int) -> Outcome:
        """Records one event together with all that wait. Returns what became of it.

        Args:
            size: of the event's body, in bytes.

        Raises:
            Overloaded: too many wait already.
            DatabaseUnavailable, StatementRejected: as Recorder.record, for the batch.
        """
        if len(self._waiting) >= self._limit:
            raise Overloaded
        waiting = _Waiting(received, size, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
        return await waiting.done

    async def _write(self) -> None:
        try:
            while self._waiting:
                await self._write_batch(self._next_batch())
        finally:
            self._writing = None

    def _next_batch(self) -> list[_Waiting]:
        batch = [self._waiting.popleft()]
        size = batch[0].size
        while self._waiting and len(batch) < BATCH_EVENTS and size + self._waiting[0].size <= BATCH_BYTES:
            batch.append(self._waiting.popleft())
            size += batch[-1].size
        return batch

    async def _write_batch(self, batch: list[_Waiting]) -> None:
        try:
            outcomes = await self._writer.record([waiting.received for waiting in batch])
        except Exception as error:
            for waiting in batch:
                if not waiting.done.done():
                    waiting.done.set_exception(error)
            return
        newest_s = 0
        for waiting, outcome in zip(batch, outcomes, strict=True):
            if not waiting.done.done():
                waiting.done.set_result(outcome)
            if outcome.result is Result.APPLIED:
                newest_s = max(newest_s, waiting.received.event.created)
        self._observe(len(batch), newest_s)

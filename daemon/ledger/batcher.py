"""Natural batching: while one statement is in flight arriving events gather, and go out together when it returns.

No timer and no waiting when idle; under load batches grow by themselves. The fold makes any batching right.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from daemon.ledger.recorder import Entry, Recorded

# A statement takes time in proportion to its batch, and everybody in it waits for all of it; beyond some hundred
# events a larger batch saves next to nothing per event.
BATCH_EVENTS = 256
BATCH_BYTES = 4 * 1024 * 1024  # of bodies; four of the largest that are taken


class Overloaded(Exception):
    """More events wait than may; this one was not taken."""


class Writer(Protocol):
    """What a batcher writes with: a Recorder."""

    async def record(self, changes: Sequence[Entry]) -> Recorded: ...


@dataclass(slots=True)
class _Waiting:
    entry: Entry
    size: int
    done: asyncio.Future[Recorded]


class Batcher:
    """One writer for many requests.

    Args:
        writer: writes one batch at a time, durably when it returns.
        limit: events that may wait; more are refused at once, so that memory and waiting stay bounded.
        on_batch: is called after each batch with its size and with `created` of the newest event that was applied (0 if
            none was); once per batch, because what is done per event is what an event costs.
    """

    def __init__(
        self, writer: Writer, limit: int, on_batch: Callable[[int, int], None] = lambda _size, _newest_s: None
    ) -> None:
        self._writer = writer
        self._limit = limit
        self._waiting: deque[_Waiting] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._on_batch = on_batch

    @property
    def waiting(self) -> int:
        """Events that wait for the statement in flight."""
        return len(self._waiting)

    async def record(self, entry: Entry, size: int) -> Recorded:
        """Records one event with whatever else waits. Returns what became of its whole batch.

        Args:
            size: of the event's body, in bytes.

        Raises:
            Overloaded: too many wait already.
            DatabaseUnavailable, StatementRejected: as Recorder.record, for the batch.
        """
        if len(self._waiting) >= self._limit:
            raise Overloaded
        waiting = _Waiting(entry, size, asyncio.get_running_loop().create_future())
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
            recorded = await self._writer.record([waiting.entry for waiting in batch])
        except Exception as error:
            for waiting in batch:
                if not waiting.done.done():
                    waiting.done.set_exception(error)
        else:
            again = Recorded(refused=recorded.refused)  # for an event that came twice in this batch
            seen: set[str] = set()
            for waiting in batch:
                event_id = waiting.entry.event.id
                if not waiting.done.done():
                    waiting.done.set_result(again if event_id in seen else recorded)
                seen.add(event_id)
            self._report(batch, recorded)

    def _report(self, batch: list[_Waiting], recorded: Recorded) -> None:
        applied = recorded.new - recorded.refused.keys()
        events = [waiting.entry.event for waiting in batch]
        self._on_batch(
            len(batch), max((e.created for e in events if e.facts is not None and e.id in applied), default=0)
        )

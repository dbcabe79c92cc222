"""Batches without a timer, with a writer whose statements end when the test says so."""

import asyncio
from collections.abc import Sequence

import pytest

from daemon.api.metrics import ApiMetrics
from daemon.ledger.batcher import BATCH_BYTES, BATCH_EVENTS, Batcher, Overloaded
from daemon.ledger.facts import Facts, Family
from daemon.ledger.recorder import Outcome, ReceivedEvent, Result
from daemon.ledger.stripe_events import StripeEvent
from sql.errors import DatabaseUnavailable


class Writer:
    """Keeps each batch until `release`. An event without facts fails with its own id as the reason."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.error: Exception | None = None
        self._releases: asyncio.Semaphore = asyncio.Semaphore(0)

    async def record(self, changes: Sequence[ReceivedEvent]) -> list[Outcome]:
        self.batches.append([received.event.id for received in changes])
        await self._releases.acquire()
        if self.error is not None:
            raise self.error
        return [Outcome(Result.APPLIED) if each.facts else Outcome(Result.FAILED, each.event.id) for each in changes]

    def release(self) -> None:
        self._releases.release()


def start(batcher: Batcher, *names: str, size: int = 1) -> list[asyncio.Task[Outcome]]:
    entries = [ReceivedEvent(StripeEvent(name, "charge.succeeded", 0, False, None)) for name in names]
    return [asyncio.create_task(batcher.record(entry, size)) for entry in entries]


async def settle() -> None:
    """Lets everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_an_idle_writer_takes_an_event_at_once() -> None:
    """No timer: the first event goes out by itself, and again when all is quiet."""
    writer = Writer()
    batcher = Batcher(writer, limit=10)
    for name in ("a", "b"):
        [request] = start(batcher, name)
        await settle()
        assert writer.batches[-1] == [name]
        assert not request.done()
        writer.release()
        assert (await request).error == name


async def test_a_batch_is_one_observation_and_the_newest_applied_event_only_rises() -> None:
    """Batch sizes are counted once per statement; a late event makes the newest no older, one without effect newer."""
    writer = Writer()
    metrics = ApiMetrics()
    batcher = Batcher(writer, limit=10, on_written=metrics.batch_written)
    newest = 4_000_000_000
    stated: Facts = {Family.CHARGE: {"ch_1": {}}}
    for created, facts in ((newest, stated), (newest - 5, stated), (newest + 5, None)):
        before = _batches(metrics)
        events = [StripeEvent(f"{created}-{n}", "charge.succeeded", created, False, facts) for n in range(3)]
        requests = [asyncio.create_task(batcher.record(ReceivedEvent(event), 1)) for event in events]
        await settle()
        assert batcher.waiting == 0
        writer.release()
        await asyncio.gather(*requests)
        assert _batches(metrics) == before + 1
        assert metrics.registry.get_sample_value("webhook_newest_event_timestamp_seconds") == newest


def _batches(metrics: ApiMetrics) -> float:
    return metrics.registry.get_sample_value("webhook_batch_events_count") or 0.0


async def test_events_gather_while_a_statement_is_in_flight() -> None:
    """What arrives meanwhile goes out together; each is answered after its own batch only."""
    writer = Writer()
    batcher = Batcher(writer, limit=10)
    first, *others = [*start(batcher, "a"), *start(batcher, "b", "c", "d")]
    await settle()
    assert writer.batches == [["a", "b", "c", "d"]]
    later = start(batcher, "e", "f")
    await settle()
    assert len(writer.batches) == 1
    writer.release()
    await asyncio.gather(first, *others)
    await settle()
    assert writer.batches[1:] == [["e", "f"]]
    assert not any(request.done() for request in later)
    writer.release()
    await asyncio.gather(*later)


async def test_a_batch_is_bounded_in_number_and_bytes() -> None:
    """However many wait, one statement takes at most so many events and so many bytes."""
    writer = Writer()
    batcher = Batcher(writer, limit=1000)
    many = start(batcher, *(str(n) for n in range(BATCH_EVENTS + 1)))
    large = start(batcher, "x", "y", "z", size=BATCH_BYTES // 2)
    for _ in range(4):
        await settle()
        writer.release()
    await asyncio.gather(*many, *large)
    assert [len(batch) for batch in writer.batches] == [BATCH_EVENTS, 2, 2]
    assert writer.batches[1] == [str(BATCH_EVENTS), "x"]


async def test_too_many_waiting_are_refused_at_once() -> None:
    """Beyond the limit the answer is immediate, and those who wait are served all the same."""
    writer = Writer()
    batcher = Batcher(writer, limit=2)
    served = start(batcher, "a")
    await settle()
    served += start(batcher, "b", "c")
    await settle()
    [refused] = start(batcher, "d")
    with pytest.raises(Overloaded):
        await refused
    writer.release()
    writer.release()
    await asyncio.gather(*served)
    assert writer.batches == [["a"], ["b", "c"]]


async def test_a_failed_batch_fails_its_own_only() -> None:
    """Each request of the batch gets the error; the next batch is written as if nothing had happened."""
    writer = Writer()
    batcher = Batcher(writer, limit=10)
    writer.error = DatabaseUnavailable("timeout")
    requests = start(batcher, "a", "b")
    await settle()
    writer.release()
    results = await asyncio.gather(*requests, return_exceptions=True)
    assert all(isinstance(result, DatabaseUnavailable) for result in results)
    writer.error = None
    [again] = start(batcher, "a")
    writer.release()
    assert (await again).error == "a"


async def test_a_client_that_goes_away_takes_nobody_along() -> None:
    """A cancelled request leaves the others of its batch untouched, waiting or in flight."""
    writer = Writer()
    batcher = Batcher(writer, limit=10)
    gone, stays = start(batcher, "a", "b")
    await settle()
    later, gone_too = start(batcher, "c", "d")
    await settle()
    gone.cancel()
    gone_too.cancel()
    writer.release()
    writer.release()
    assert [(await stays).error, (await later).error] == ["b", "c"]

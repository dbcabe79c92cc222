"""Batches without a timer, with a writer whose statements end when the test says so."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.api.metrics import ApiMetrics
from daemon.ledger import batcher as batcher_module
from daemon.ledger.batcher import BATCH_BYTES, BATCH_EVENTS, BATCHES, SECOND_BATCH_EVENTS, Batcher, Overloaded
from daemon.ledger.changes import Outcome, ReceivedEvent, Result
from daemon.ledger.facts import Facts, Family
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


async def test_a_client_that_leaves_takes_no_other_along() -> None:
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


# --- Two batches in flight


class OpenWriter:
    """Keeps each batch in flight until the test ends it, in any order."""

    def __init__(self) -> None:
        self.in_flight: list[tuple[list[ReceivedEvent], asyncio.Future[None]]] = []

    async def record(self, changes: Sequence[ReceivedEvent]) -> list[Outcome]:
        batch = list(changes), asyncio.get_running_loop().create_future()
        self.in_flight.append(batch)
        try:
            await batch[1]
        finally:
            self.in_flight.remove(batch)
        return [Outcome(Result.FAILED, str(each.event.created)) for each in changes]

    @property
    def names(self) -> list[list[str]]:
        return [[each.event.id for each in batch] for batch, _ in self.in_flight]

    def end(self, number: int, error: Exception | None = None) -> list[ReceivedEvent]:
        """Ends a batch in flight; returns its events."""
        batch, ended = self.in_flight[number]
        ended.set_exception(error) if error else ended.set_result(None)
        return batch


def received(name: str, *charges: str, number: int = 0) -> ReceivedEvent:
    """An event about some charges; the OpenWriter answers it with its number."""
    facts: Facts = {Family.CHARGE: {charge: {} for charge in charges}}
    return ReceivedEvent(StripeEvent(name, "charge.succeeded", number, False, facts))


async def test_a_second_batch_is_in_flight_if_it_is_worth_it() -> None:
    """Beside a batch in flight, few events wait for its end, and many are written; a third batch waits."""
    writer = OpenWriter()
    batcher = Batcher(writer, limit=1000)
    requests = start(batcher, "first")
    await settle()
    few = [f"{n}" for n in range(SECOND_BATCH_EVENTS - 1)]
    requests += start(batcher, *few)
    await settle()
    assert writer.names == [["first"]]
    requests += start(batcher, "last")
    await settle()
    assert writer.names == [["first"], [*few, "last"]]
    more = [f"more {n}" for n in range(SECOND_BATCH_EVENTS)]
    requests += start(batcher, *more)
    await settle()
    assert len(writer.in_flight) == BATCHES
    writer.end(1)
    await settle()
    assert writer.names == [["first"], more]
    writer.end(1)
    writer.end(0)
    await asyncio.gather(*requests)


async def test_what_shares_an_object_or_an_id_with_a_batch_in_flight_waits() -> None:
    """So does what shares an object with such an event: nothing overtakes an earlier event of its object."""
    writer = OpenWriter()
    batcher = Batcher(writer, limit=1000)

    def post(*events: ReceivedEvent) -> list[asyncio.Task[Outcome]]:
        return [asyncio.create_task(batcher.record(event, 1)) for event in events]

    requests = post(received("a", "ch_1"))
    await settle()
    waiting = [received("b", "ch_1", "ch_2"), received("c", "ch_2"), received("a", "ch_3")]
    requests += post(*waiting, *(received(f"{n}", f"ch_{n + 10}") for n in range(SECOND_BATCH_EVENTS)))
    await settle()
    assert writer.names == [["a"], [f"{n}" for n in range(SECOND_BATCH_EVENTS)]]
    writer.end(0)
    await settle()
    assert writer.names == [[f"{n}" for n in range(SECOND_BATCH_EVENTS)]], "three events are not worth a second batch"
    writer.end(0)
    await settle()
    assert writer.names == [["b", "c", "a"]]
    writer.end(0)
    await asyncio.gather(*requests)


@dataclass
class _Request:
    """A request of the model: its own number, its event's id and objects, and how it ended."""

    task: asyncio.Task[Outcome]
    ids: set[str]
    is_cancelled: bool = False


ARRIVAL = st.tuples(st.integers(0, 12), st.lists(st.sampled_from("uvwxyz"), max_size=2), st.integers(1, 3))
STEPS = st.one_of(
    st.tuples(st.just("arrive"), st.lists(ARRIVAL, min_size=1, max_size=5)),
    st.tuples(st.sampled_from(("end", "fail")), st.integers(0, BATCHES - 1)),
    st.tuples(st.just("cancel"), st.integers(0, 100)),
    st.tuples(st.just("run"), st.sampled_from((1, 2, 3, 10))),
)


@given(st.lists(STEPS, max_size=40))
@settings(max_examples=300)
def test_any_interleaving_answers_each_event_once_with_its_own_outcome(steps: list[tuple[str, object]]) -> None:
    """Arrivals, ends, failures and cancellations in any order: each request gets the outcome of its own event from the
    one batch that contains it. No two batches in flight share an id, the events of an id are written in their order,
    and none waits for ever."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batcher_module, "BATCH_EVENTS", 4)
        patch.setattr(batcher_module, "BATCH_BYTES", 8)
        patch.setattr(batcher_module, "SECOND_BATCH_EVENTS", 2)
        asyncio.run(_Model().run(steps))


class _Model:
    """Takes the steps, and compares the batcher with what must be true after each of them."""

    def __init__(self) -> None:
        self.writer = OpenWriter()
        self.batcher = Batcher(self.writer, limit=1000)
        self.requests: list[_Request] = []
        self.seen: list[int] = []  # the numbers of the events, in the order in which they were given to the writer
        self.batches: list[list[ReceivedEvent]] = []
        self.failed: dict[int, DatabaseUnavailable] = {}

    async def run(self, steps: list[tuple[str, object]]) -> None:
        for name, argument in steps:
            match name, argument:
                case "arrive", list(arrivals):
                    for event, charges, size in arrivals:
                        self.arrive(f"evt_{event}", charges, size)
                case "end", int(number):
                    self.end(number, None)
                case "fail", int(number):
                    self.end(number, DatabaseUnavailable("timeout"))
                case "cancel", int(number):
                    self.cancel(number)
                case _, int(iterations):
                    for _ in range(iterations):
                        await asyncio.sleep(0)
                    self.check()
        await self.end_all()
        await self.check_answers()

    async def end_all(self) -> None:
        await settle()
        self.check()
        while self.writer.in_flight:
            self.end(0, None)
            await settle()
            self.check()
        assert not self.batcher.waiting

    def arrive(self, event: str, charges: list[str], size: int) -> None:
        arrived = received(event, *charges, number=len(self.requests))
        task = asyncio.ensure_future(self.batcher.record(arrived, size))
        self.requests.append(_Request(task, {event, *charges}))

    def end(self, number: int, error: DatabaseUnavailable | None) -> None:
        if number < len(self.writer.in_flight) and not self.writer.in_flight[number][1].done():
            batch = self.writer.end(number, error)
            if error:
                self.failed.update((each.event.created, error) for each in batch)

    def cancel(self, number: int) -> None:
        if number < len(self.requests):
            self.requests[number].is_cancelled |= self.requests[number].task.cancel()

    def check(self) -> None:
        in_flight = [batch for batch, _ in self.writer.in_flight]
        for batch in in_flight:
            if not any(batch is known for known in self.batches):
                self.batches.append(batch)
                self.seen += [each.event.created for each in batch]
            assert len(batch) <= 4
        assert len(in_flight) <= BATCHES
        ids = Counter(id_ for batch in in_flight for id_ in set[str]().union(*({e.event.id, *e.ids} for e in batch)))
        assert max(ids.values(), default=0) <= 1, "two batches in flight share an id"

    async def check_answers(self) -> None:
        assert len(self.seen) == len(set(self.seen)), "an event was written twice"
        for number, request in enumerate(self.requests):
            [answer] = await asyncio.gather(request.task, return_exceptions=True)
            if isinstance(answer, asyncio.CancelledError):
                assert request.is_cancelled
                continue
            assert number in self.seen
            expected = self.failed.get(number) or Outcome(Result.FAILED, f"{number}")
            assert answer == expected
        for id_ in set[str]().union(*(request.ids for request in self.requests)):
            order = [number for number in self.seen if id_ in self.requests[number].ids]
            assert order == sorted(order), "an event overtook an earlier one of its object"

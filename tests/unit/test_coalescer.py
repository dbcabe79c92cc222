"""One query for all requests that wait, with a query that ends when the test says so."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.ledger.coalescer import Coalescer


class Query:
    """Finds each key's own name in capitals, but for `missing`, once it is released."""

    def __init__(self, error: Exception | None = None) -> None:
        self.asked: list[list[str]] = []
        self.error = error
        self._releases = asyncio.Semaphore(0)

    async def __call__(self, keys: Sequence[str]) -> dict[str, str]:
        self.asked.append(list(keys))
        await self._releases.acquire()
        if self.error:
            raise self.error
        return {key: key.upper() for key in keys if key != "missing"}

    def release(self) -> None:
        self._releases.release()


async def settle() -> None:
    """Lets everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


def start(coalescer: Coalescer[str, str], *keys: str) -> list[asyncio.Future[str | None]]:
    return [coalescer.read(key) for key in keys]


async def test_requests_that_arrive_while_a_query_runs_are_answered_by_the_next_one() -> None:
    """Each key is in it once; an idle coalescer asks at once, and nothing is asked that no request waits for."""
    query = Query()
    coalescer = Coalescer(query, limit=10)
    first = start(coalescer, "a")
    await settle()
    later = start(coalescer, "b", "a", "b", "missing")
    await settle()
    assert query.asked == [["a"]]
    query.release()
    await settle()
    assert query.asked == [["a"], ["b", "a", "missing"]]
    assert [request.done() for request in (*first, *later)] == [True, False, False, False, False]
    query.release()
    assert await asyncio.gather(*first, *later) == ["A", "B", "A", "B", None]
    assert len(query.asked) == 2


async def test_a_query_takes_keys_up_to_its_limit_and_one_at_least() -> None:
    """By their weights, in their order; the others wait for the next query."""
    query = Query()
    coalescer = Coalescer(query, limit=5, weight=len)
    requests = start(coalescer, "much too long", "ab", "cd", "e", "f")
    for _ in range(3):
        await settle()
        query.release()
    await asyncio.gather(*requests)
    assert query.asked == [["much too long"], ["ab", "cd", "e"], ["f"]]


async def test_a_query_that_fails_fails_for_those_who_asked_and_for_no_one_else() -> None:
    """The next query is another attempt."""
    query = Query(ConnectionError("gone"))
    coalescer = Coalescer(query, limit=10)
    first = start(coalescer, "a", "a")
    await settle()
    [later] = start(coalescer, "a")
    query.release()
    for request in first:
        with pytest.raises(ConnectionError, match="gone"):
            await request
    query.error = None
    query.release()
    assert await later == "A"


async def test_a_request_that_is_cancelled_changes_nothing_for_the_others() -> None:
    """They share its key and its query."""
    query = Query()
    coalescer = Coalescer(query, limit=10)
    cancelled, other = start(coalescer, "a", "a")
    await settle()
    cancelled.cancel()
    query.release()
    assert await other == "A"
    with pytest.raises(asyncio.CancelledError):
        await cancelled


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5)), max_size=30), st.integers(1, 3))
def test_no_reply_is_older_than_its_request(arrivals: list[tuple[str, int]], limit: int) -> None:
    """Whenever requests arrive, each is answered by a query that began after it arrived."""
    clock = 0

    async def query(keys: Sequence[str]) -> dict[str, int]:
        nonlocal clock
        began = clock
        for _ in range(3):
            await asyncio.sleep(0)
            clock += 1
        return dict.fromkeys(keys, began)

    async def request(coalescer: Coalescer[str, int], key: str, wait: int) -> None:
        nonlocal clock
        for _ in range(wait):
            await asyncio.sleep(0)
        clock += 1
        arrived = clock
        began = await coalescer.read(key)
        assert began is not None
        assert began >= arrived

    async def play() -> None:
        coalescer = Coalescer(query, limit)
        await asyncio.gather(*(request(coalescer, key, wait) for key, wait in arrivals))

    asyncio.run(play())

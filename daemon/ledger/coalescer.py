"""Coalesces reads, as the batcher coalesces writes: requests that arrive while a query runs wait, and the next query
answers all of them.

No query answers a request that arrived after the query began, so no reply is older than its request.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar

Key = TypeVar("Key")
Found = TypeVar("Found")


class Coalescer(Generic[Key, Found]):
    """One query at a time for all requests of one kind. Requests for the same key share what is found.

    Args:
        query: finds what belongs to different keys, by one query. A key that it does not return was not found.
        limit: the sum of the keys' weights in one query; there is always one key at least.
        weight: of a key.
    """

    def __init__(
        self,
        query: Callable[[Sequence[Key]], Awaitable[Mapping[Key, Found]]],
        limit: int,
        weight: Callable[[Key], int] = lambda _key: 1,
    ) -> None:
        self._query = query
        self._limit = limit
        self._weight = weight
        self._waiting: dict[Key, list[asyncio.Future[Found | None]]] = {}
        self._querying: asyncio.Task[None] | None = None

    def read(self, key: Key) -> "asyncio.Future[Found | None]":
        """What belongs to a key, read after this call began; None if it is not found. The future fails as the query."""
        found: asyncio.Future[Found | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(found)
        if self._querying is None:
            self._querying = asyncio.create_task(self._answer_all())
        return found

    async def _answer_all(self) -> None:
        try:
            while self._waiting:
                await self._answer(self._next_keys())
        finally:
            self._querying = None

    def _next_keys(self) -> dict[Key, list[asyncio.Future[Found | None]]]:
        """The keys that wait, in their order, up to the limit."""
        taken: dict[Key, list[asyncio.Future[Found | None]]] = {}
        weight = 0
        for key in list(self._waiting):
            weight += self._weight(key)
            if taken and weight > self._limit:
                break
            taken[key] = self._waiting.pop(key)
        return taken

    async def _answer(self, requests: Mapping[Key, Sequence[asyncio.Future[Found | None]]]) -> None:
        try:
            found = await self._query(list(requests))
        except Exception as error:
            for futures in requests.values():
                for future in futures:
                    if not future.done():  # it is done if the request was cancelled meanwhile
                        future.set_exception(error)
            return
        for key, futures in requests.items():
            for future in futures:
                if not future.done():
                    future.set_result(found.get(key))

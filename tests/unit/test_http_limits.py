"""Places, turns and the size of a body, apart from any server."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest
from aiohttp import web
from pytest_aiohttp.plugin import AiohttpClient

from daemon.runtime.http.errors import Busy
from daemon.runtime.http.limits import QUEUE_WAIT_S, Places, Turns, read_body

LIMIT = 1000


async def test_a_place_is_given_in_the_order_of_coming() -> None:
    """More requests than places are worked on one after the other, first come, first served."""
    places, order, at_once = Places("any", 2), list[int](), 0

    async def work(number: int) -> None:
        nonlocal at_once
        async with places:
            at_once += 1
            assert at_once <= 2
            order.append(number)
            await asyncio.sleep(0)
            at_once -= 1

    await asyncio.gather(*(work(number) for number in range(10)))
    assert order == list(range(10))


async def test_no_place_in_time() -> None:
    """A request that finds no place is refused after the wait, names its kind, and takes no place afterwards."""
    places, loop = Places("pages", 1), asyncio.get_running_loop()
    async with places:
        began_s = loop.time()
        with pytest.raises(Busy) as refused:
            async with places:
                pytest.fail("there was no place")
        assert loop.time() - began_s >= QUEUE_WAIT_S - 0.01
        assert refused.value.kind == "pages"
    async with asyncio.timeout(QUEUE_WAIT_S / 2), places:
        pass


async def test_turns_leave_the_loop_to_others() -> None:
    """However many wait, no more than the count go on in one turn of the loop, in their order; none is left over."""
    turns, order, most = Turns(3), list[int](), 0

    async def take(number: int) -> None:
        await turns.take()
        order.append(number)

    tasks = [asyncio.create_task(take(number)) for number in range(20)]
    while not all(task.done() for task in tasks):
        before = len(order)
        await asyncio.sleep(0)
        most = max(most, len(order) - before)
    assert order == list(range(20))
    assert most == 3


async def test_a_turn_that_is_cancelled_as_it_comes_is_no_error() -> None:
    """Neither that of a task, nor a callback that another one cancels in the same iteration of the event loop."""
    faults = list[object]()
    asyncio.get_running_loop().set_exception_handler(lambda _loop, fault: faults.append(fault))
    turns = Turns(1)
    tasks = [asyncio.create_task(turns.take()) for _ in range(3)]
    await asyncio.sleep(0)  # one had its turn, two wait for the next iteration
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    turns, order = Turns(2), list[str]()
    last = partial(order.append, "last")
    for callback in (partial(order.append, "first"), partial(order.append, "second"), lambda: turns.cancel(last), last):
        turns.call(callback)
    await asyncio.sleep(0)
    assert (order, faults) == (["first", "second"], [])


async def test_who_leaves_takes_no_turn() -> None:
    """Callbacks that are cancelled, and tasks that are cancelled while they wait, delay nothing that still waits."""
    turns, order = Turns(1), list[str]()
    callbacks = [partial(order.append, name) for name in ("first", "cancelled", "second", "third")]
    for callback in callbacks:
        turns.call(callback)
    turns.cancel(callbacks[1])
    waits = asyncio.create_task(turns.take())
    await asyncio.sleep(0)
    turns.call(partial(order.append, "fourth"))
    assert order == ["first", "second"]
    waits.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert order == ["first", "second", "third", "fourth"]


@pytest.mark.parametrize(
    ("size", "chunked", "expected"),
    [(0, False, 200), (LIMIT, False, 200), (LIMIT + 1, False, 413), (LIMIT, True, 200), (LIMIT + 1, True, 413)],
)
async def test_a_body_has_a_limit(aiohttp_client: AiohttpClient, size: int, chunked: bool, expected: int) -> None:
    """A body is whole up to the limit, and 413 beyond it, with a length or in chunks."""

    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=await read_body(request, LIMIT))

    async def parts(body: bytes) -> AsyncIterator[bytes]:
        for byte in body:
            yield bytes([byte])

    app = web.Application()
    app.add_routes([web.post("/", handler)])
    client = await aiohttp_client(app)
    body = bytes(number % 256 for number in range(size))
    reply = await client.post("/", data=parts(body) if chunked else body)
    assert reply.status == expected
    if expected == 200:
        assert await reply.read() == body

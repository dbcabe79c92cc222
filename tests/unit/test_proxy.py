"""The proxy that the tests spoil connections with: each fault does what it is called, and ends."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.chaos.proxy import HOST, Proxy, silent_port


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """A proxy before a server that sends everything back."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while line := await reader.read(100):
                writer.write(line)
        writer.close()

    server = await asyncio.start_server(echo, HOST, 0)
    async with Proxy(server.sockets[0].getsockname()[:2]) as proxy:
        yield proxy
    server.close()


class Client:
    """One connection through the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def said(self, timeout_s: float = 30) -> bytes:
        """What comes back for a word."""
        self.writer.write(b"word")
        async with asyncio.timeout(timeout_s):
            return await self.reader.read(100)


@pytest.fixture
async def client(proxy: Proxy) -> AsyncIterator[Client]:
    """A connection that works."""
    client = Client(*await asyncio.open_connection(HOST, proxy.port))
    assert await client.said() == b"word"
    yield client
    client.writer.close()


async def test_delay_holds_each_direction_up(proxy: Proxy, client: Client) -> None:
    """There and back takes twice the delay, and no time at all once healed."""
    loop = asyncio.get_running_loop()
    proxy.delay(0.05)
    begin = loop.time()
    assert await client.said() == b"word"
    assert loop.time() - begin >= 0.1
    proxy.delay(60)
    proxy.heal()
    assert await client.said() == b"word"


async def test_a_black_hole_swallows_and_gives_back(proxy: Proxy, client: Client) -> None:
    """Old and new connections stay silent; what was sent arrives when it is over."""
    proxy.black_hole()
    fresh = Client(*await asyncio.open_connection(HOST, proxy.port))
    for each in (client, fresh):
        with pytest.raises(TimeoutError):
            await each.said(0.02)
    proxy.heal()
    for each in (client, fresh):
        async with asyncio.timeout(30):
            assert await each.reader.read(100) == b"word"
    fresh.writer.close()


async def test_reset_ends_what_is_open(proxy: Proxy, client: Client) -> None:
    """Open connections get RST; the next one works."""
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        await client.said()
    fresh = Client(*await asyncio.open_connection(HOST, proxy.port))
    assert await fresh.said() == b"word"
    fresh.writer.close()


async def test_refuse_and_listen_again_on_the_same_port(proxy: Proxy, client: Client) -> None:
    """Refused are new connections only, until it listens again."""
    port = proxy.port
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(HOST, port)
    assert await client.said() == b"word"
    await proxy.listen()
    fresh = Client(*await asyncio.open_connection(HOST, port))
    assert await fresh.said() == b"word"
    fresh.writer.close()


async def test_half_close_is_the_end_of_file(proxy: Proxy, client: Client) -> None:
    """A client reads the end of file, and can still write."""
    proxy.half_close()
    assert await client.said() == b""
    client.writer.write(b"more")
    await client.writer.drain()


async def test_a_silent_port_does_not_even_connect() -> None:
    """Connecting takes until the client gives up."""
    port, sockets = silent_port()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await asyncio.open_connection(HOST, port)
    for each in sockets:
        each.close()

"""Floods: many clients of one kind at a server, each coming again as soon as it is answered or cut off.

`python -m tests.floods NAME PORT CLIENTS` runs one until it is killed.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

Once = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

TICKET = "ticket_large"
PAGE = b"GET /api/tickets/%b/donations?limit=1000 HTTP/1.1\r\nHost: a\r\n\r\n" % TICKET.encode()
MIB = 1024 * 1024
PART = b"x" * 65536
PATIENCE_S = 5.0
PAUSE_S = 0.01  # after a connection that failed


@asynccontextmanager
async def flood(name: str, port: int, clients: int) -> AsyncIterator[None]:
    """One of FLOODS, in a process of its own."""
    words = ("-m", "tests.floods", name, str(port), str(clients))
    process = await asyncio.create_subprocess_exec(sys.executable, *words)
    try:
        yield
    finally:
        process.kill()
        await process.wait()


async def run(name: str, port: int, clients: int) -> None:
    """So many clients, for ever."""
    await asyncio.gather(*(_client(port, FLOODS[name]) for _ in range(clients)))


async def _client(port: int, once: Once) -> None:
    while True:
        with suppress(OSError, EOFError, TimeoutError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                while not reader.at_eof():
                    await once(reader, writer)
            finally:
                writer.transport.abort()
        await asyncio.sleep(PAUSE_S)


def keep_alive(request: bytes) -> Once:
    """The same request again on the same connection."""

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.partition(b"content-length: ")[2].split(b"\r\n")[0]))

    return once


def wrong_signature() -> bytes:
    """A delivery of 3 kB that Stripe has not signed."""
    lines = (
        "POST /webhooks/stripe HTTP/1.1",
        "Host: a",
        f"Stripe-Signature: t={int(time.time())},v1={'a' * 64}",
        "Content-Length: 3000",
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + b"x" * 3000


async def cut_short(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A body of 1 MiB is announced and almost all of it sent; then the client is gone."""
    writer.write(wrong_signature().partition(b"Content-Length")[0] + b"Content-Length: %d\r\n\r\n" % MIB)
    for _ in range(MIB // len(PART) - 1):
        writer.write(PART)
        async with asyncio.timeout(PATIENCE_S):
            await writer.drain()
    raise EOFError


def sent_ahead(request: bytes) -> Once:
    """Many requests are sent before the first is answered, each with a body that nothing reads; none is read."""
    body = b"Content-Length: 30000\r\n\r\n" + b"x" * 30000

    async def once(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(40):
            writer.write(request.removesuffix(b"\r\n") + body)
            async with asyncio.timeout(PATIENCE_S):
                await writer.drain()
        await asyncio.sleep(1)
        raise EOFError

    return once


def unread(request: bytes) -> Once:
    """Requests whose replies the client does not read."""

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined] # it is a socket's
        writer.write(request * 10)
        await asyncio.sleep(PATIENCE_S)
        raise EOFError

    return once


# What each client does again and again on a connection until it ends.
FLOODS = {
    "unknown addresses": keep_alive(b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n"),
    "health checks": keep_alive(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"),
    "ledger pages": keep_alive(PAGE),
    "wrong signatures": keep_alive(wrong_signature()),
    "bodies cut short": cut_short,
    "requests sent ahead": sent_ahead(PAGE),
    "replies that nobody reads": unread(PAGE),
}


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))

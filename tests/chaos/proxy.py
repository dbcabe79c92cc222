"""A TCP proxy on 127.0.0.1 that spoils, on command, what passes through it.

    async with Proxy("/run/postgresql/.s.PGSQL.5432") as proxy:
        connect("127.0.0.1", proxy.port)
        proxy.black_hole()
        proxy.heal()

Every fault but `reset` lasts until `heal`, and reaches connections that are open already as well as new ones.
"""

import asyncio
import contextlib
import socket
import struct
from types import TracebackType
from typing import Self

HOST = "127.0.0.1"
CHUNK_BYTES = 65536

# SO_LINGER on, for no time: closing sends RST instead of FIN.
_ABORT = struct.pack("ii", 1, 0)


class Proxy:
    """Passes connections on to one server.

    Args:
        target: (host, port), or the path of a Unix socket. May be changed: new connections go to the new target.
        port: where to listen; 0 for any free port. `port` holds the real one, which stays the same until `close`.
    """

    def __init__(self, target: tuple[str, int] | str, port: int = 0) -> None:
        self.target = target
        self.port = port
        self.accepted = 0
        self.held = asyncio.Event()  # set once a black hole holds something back
        self._to_server, self._to_client = asyncio.Event(), asyncio.Event()
        self.heal()
        self._refusing = False
        self._server: asyncio.Server | None = None
        self._links: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def open(self) -> int:
        """How many connections are open."""
        return len(self._links)

    async def listen(self) -> None:
        """Accepts connections, at first and again after `refuse`."""
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, HOST, self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    def delay(self, seconds: float) -> None:
        """Every piece of data waits this long, in each direction."""
        self._delay_s = seconds

    def black_hole(self, *, to_server: bool = True, to_client: bool = True) -> None:
        """Connections open and stay open, and nothing passes in these directions."""
        self.held.clear()
        for holds, passing in ((to_server, self._to_server), (to_client, self._to_client)):
            if holds:
                passing.clear()

    def reset(self) -> None:
        """Ends every open connection with RST, once."""
        for task, client in list(self._links.items()):
            _abort(client)
            task.cancel()

    def refuse(self) -> None:
        """New connections are refused; open ones go on. `listen` ends it."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def half_close(self) -> None:
        """Sends the clients a FIN, as if the server sent nothing more; what they send still arrives there."""
        self._half_closed = True
        for client in self._links.values():
            _finish(client)

    def heal(self) -> None:
        """No delay, nothing held back: what was held back arrives now."""
        self._delay_s = 0.0
        self._half_closed = False
        self._to_server.set()
        self._to_client.set()

    async def close(self) -> None:
        """Stops to listen and resets what is open."""
        self.refuse()
        links = list(self._links)
        self.reset()
        await asyncio.gather(*links, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.accepted += 1
        self._links[task] = client
        try:
            # A link that `reset` cancels ends quietly: asyncio would call it an error.
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await self._link(reader, client)
        finally:
            del self._links[task]
            client.close()

    async def _link(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        await self._to_server.wait()
        from_server, server = await self._connect()
        try:
            async with asyncio.TaskGroup() as directions:
                directions.create_task(self._pump(reader, server, self._to_server))
                directions.create_task(self._pump(from_server, client, self._to_client))
        except* OSError:
            _abort(client)
        finally:
            server.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self.target, str):
            return await asyncio.open_unix_connection(self.target)
        return await asyncio.open_connection(*self.target)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, passing: asyncio.Event) -> None:
        while chunk := await source.read(CHUNK_BYTES):
            if self._delay_s:
                await asyncio.sleep(self._delay_s)
            if not passing.is_set():
                self.held.set()
                await passing.wait()
            if self._half_closed and sink in self._links.values():
                _finish(sink)
                continue
            sink.write(chunk)
            await sink.drain()
        await passing.wait()
        _finish(sink)


def silent_port() -> tuple[int, list[socket.socket]]:
    """A port that answers no SYN at all, as behind a firewall: its queue of connections is full.

    Returns the port, and the sockets to close afterwards.
    """
    listener = socket.create_server((HOST, 0), backlog=0)
    address = listener.getsockname()
    queued = [socket.socket() for _ in range(2)]
    for each in queued:
        each.setblocking(False)
        each.connect_ex(address)
    return address[1], [listener, *queued]


def _abort(client: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):  # its other end was closed at the same moment
        client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
    client.transport.abort()


def _finish(sink: asyncio.StreamWriter) -> None:
    if sink.can_write_eof() and not sink.is_closing():
        sink.write_eof()

"""The sidecar's end of readiness: a Unix socket on which the state is sent to every connected process.

The state, its line and the other end are in `daemon.runtime.readiness`.
"""

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Self

from daemon.runtime.readiness import HEARTBEAT_S, MAX_LINE_BYTES, Readiness, encode, is_report, send_line

# More than any sensible number of API processes; this bounds a client that leaks connections.
MAX_CLIENTS = 256


class ReadinessServer:
    """A Unix stream server that sends the state to every client.

    Args:
        on_report: is called for each line by which a client reports that a query failed.
    """

    def __init__(self, path: Path, state: Readiness, on_report: Callable[[], None]) -> None:
        self.state = state
        self._path = path
        self._on_report = on_report
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._identity: tuple[int, int] | None = None

    async def __aenter__(self) -> Self:
        """Open the socket. Raises OSError if another kind of file is at its place, or its folder cannot be written."""
        await self._listen()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Remove the socket, if it is still this server's, and close all connections."""
        # While the listener is open no other file can have its inode number.
        if _identity(self._path) == self._identity:
            self._path.unlink(missing_ok=True)
        if self._server is not None:
            self._server.close()
        for writer in tuple(self._writers):
            writer.transport.abort()

    def publish(self, state: Readiness) -> None:
        """Make `state` the current one and send it to every client. Never blocks."""
        self.state = state
        line = encode(state)
        for writer in tuple(self._writers):
            send_line(writer, line)

    async def run(self) -> None:
        """Repeat the state each second, for ever: a client that receives nothing becomes not ready.

        A socket that was removed or replaced is opened again, because no process that starts later would find this
        server; but not where another sidecar answers. Clients that are connected stay so.
        """
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            self.publish(self.state)
            if _identity(self._path) != self._identity and not _is_served(self._path):
                with contextlib.suppress(OSError):
                    await self._listen()

    async def _listen(self) -> None:
        """Open the socket at its place, instead of the one before. Clients that are connected stay so."""
        listener = _bind(self._path)
        self._identity = _identity(self._path)
        former = self._server
        self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=MAX_LINE_BYTES)
        if former is not None:
            former.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The connection of one client, until either side ends it."""
        if len(self._writers) >= MAX_CLIENTS:
            writer.transport.abort()
            return
        self._writers.add(writer)
        try:
            send_line(writer, encode(self.state))
            # readline raises ValueError for an endless line
            with contextlib.suppress(OSError, ValueError):
                while line := await reader.readline():
                    if is_report(line):
                        self._on_report()
        finally:
            self._writers.discard(writer)
            writer.transport.abort()


def _bind(path: Path) -> socket.socket:
    """A listening socket at `path`, mode 0660 from the first moment it can be found there.

    Replaces a dead sidecar's socket, never any other kind of file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(f"{path} exists and is not a socket")
    temporary = path.with_name(f".{os.getpid()}")  # a short name, because a socket's address has little room
    temporary.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.bind(str(temporary))
        temporary.chmod(0o660)
        listener.listen(MAX_CLIENTS)
        temporary.rename(path)
    except OSError:
        listener.close()
        temporary.unlink(missing_ok=True)
        raise
    return listener


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of what is at `path`; None if nothing is."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_served(path: Path) -> bool:
    """Whether a process listens on the socket at `path`. A Unix socket answers at once."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:  # its queue is full: a process listens
            return True
        except OSError:
            return False
        return True

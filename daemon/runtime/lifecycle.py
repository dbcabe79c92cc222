"""How a process of ours lives below supervisord: it dies with its parent and never ends too early.

Shared by the sidecar, the API processes and the embedded database's starter.
"""

import ctypes
import http.client
import os
import signal
import socket
import time
import xmlrpc.client
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from supervisor.xmlrpc import Faults

# supervisord adds a second of waiting per exit that comes before `startsecs` and gives up in the end. A failed life
# this long, with `startsecs` below it, makes every restart an ordinary one.
MIN_FAILED_LIFE_S = 5.0

# supervisord answers in milliseconds. One that is stopped, or whose disk hangs, never does.
RPC_TIMEOUT_S = 5.0

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def die_with_parent(sig: signal.Signals = signal.SIGTERM) -> None:
    """Ask Linux to send us `sig` when the process that started us dies, be it by kill -9.

    Survives exec, not fork. Raises OSError if the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(sig), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def supervised(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether supervisord started us: it sets SUPERVISOR_ENABLED for its children."""
    return "SUPERVISOR_ENABLED" in environ


def remaining_s(
    started_monotonic_s: float,
    environ: Mapping[str, str] = os.environ,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> float:
    """Seconds that a life begun at `started_monotonic_s` still has to last before it may end in a failure."""
    if not supervised(environ):
        return 0.0
    return max(0.0, started_monotonic_s + MIN_FAILED_LIFE_S - clock())


def linger(started_monotonic_s: float) -> None:
    """Sleep until the minimum length of a failed life is reached; not at all outside supervisord."""
    time.sleep(remaining_s(started_monotonic_s))


class SupervisordUnreachable(ConnectionError):
    """supervisord does not answer; the text says on which socket and why."""


class SocketLost(SupervisordUnreachable):
    """No process listens on supervisord's socket: the file was removed, or is dead. supervisord makes no other one
    before it is restarted.
    """


def socket_remedy(supervisord_pid: int) -> str:
    """What to do about SocketLost."""
    return (
        f"what runs goes on, but nothing can be started or reloaded. `kill -HUP {supervisord_pid}` has supervisord "
        "open its socket again; this restarts all processes, which takes some seconds"
    )


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=RPC_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _Transport(xmlrpc.client.Transport):
    """Calls over supervisord's socket. Unlike supervisor's own transport it ends each of them in time."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = self._connection[1] or _UnixConnection(self._path)
        self._connection = host, connection
        return connection

    def request(self, *call: Any, **options: Any) -> Any:
        try:
            return super().request(*call, **options)
        except (OSError, http.client.HTTPException, xmlrpc.client.ProtocolError) as error:
            lost = isinstance(error, FileNotFoundError | ConnectionRefusedError)
            reason = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
            problem = f"supervisord does not answer on {self._path}: {reason}"
            raise (SocketLost if lost else SupervisordUnreachable)(problem) from error


@contextmanager
def supervisord(address: str) -> Iterator[Any]:
    """The methods of the supervisord at `address`, such as unix:///run/supervisor.sock; a block for their calls.

    Each raises SupervisordUnreachable when supervisord does not answer, and xmlrpc.client.Fault when it refuses.
    """
    # The transport connects to `address`; the URL here only has to look like one.
    transport = _Transport(address.removeprefix("unix://"))
    with xmlrpc.client.ServerProxy("http://127.0.0.1", transport) as server:
        yield server.supervisor


def start_group(address: str, group: str) -> bool:
    """Have supervisord start `group`; members that run already are left alone. Blocks for one local round trip.

    Returns False where it knows no such group. Raises SupervisordUnreachable, or xmlrpc.client.Fault.
    """
    with supervisord(address) as supervisor:
        try:
            supervisor.startProcessGroup(group, False)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == Faults.BAD_NAME:
                return False
            if fault.faultCode != Faults.ALREADY_STARTED:
                raise
    return True

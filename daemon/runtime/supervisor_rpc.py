"""Calls to supervisord over its Unix socket, each of which ends in time."""

import http.client
import socket
import xmlrpc.client
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from supervisor.xmlrpc import Faults

# supervisord answers in milliseconds, unless it is stopped or its disk hangs.
RPC_TIMEOUT_S = 5.0


class SupervisordUnreachable(ConnectionError):
    """supervisord does not answer; the text says on which socket and why."""


class SocketLost(SupervisordUnreachable):
    """No process listens on supervisord's socket, or its file was removed. Only a restart of supervisord opens it."""


def socket_remedy(supervisord_pid: int) -> str:
    """What to do about SocketLost."""
    return (
        f"the processes that run go on, but none can be started or reloaded. `kill -HUP {supervisord_pid}` makes "
        "supervisord open its socket again; this restarts all processes, which takes some seconds"
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
    """The methods of the supervisord at `address`, such as unix:///run/supervisor.sock, for calls within the block.

    Each raises SupervisordUnreachable if supervisord does not answer, and xmlrpc.client.Fault if it refuses.
    """
    # The transport connects to `address`; this URL only has to be valid.
    transport = _Transport(address.removeprefix("unix://"))
    with xmlrpc.client.ServerProxy("http://127.0.0.1", transport) as server:
        yield server.supervisor


def start_group(address: str, group: str) -> bool:
    """Let supervisord start `group`, without changing members that already run. Blocks for one local round trip.

    Returns False if it has no such group. Raises SupervisordUnreachable, or xmlrpc.client.Fault.
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


def process_name(group: str, process: str) -> str:
    """The name that supervisorctl shows and accepts."""
    return process if group == process else f"{group}:{process}"

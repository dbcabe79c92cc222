"""Calls of supervisord: a group is started, and every failure is an error that ends in time."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xmlrpc.client import Fault
from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer

import pytest
from supervisor.xmlrpc import Faults

from daemon.runtime import supervisor_rpc as rpc


class Handler(SimpleXMLRPCRequestHandler):
    disable_nagle_algorithm = False  # a Unix socket has none


class RpcServer(SimpleXMLRPCServer):
    """On a Unix socket, as supervisord's."""

    address_family = socket.AF_UNIX


@contextmanager
def supervisor_rpc(path: Path, fault: int | None) -> Iterator[tuple[str, list[tuple[object, ...]]]]:
    """supervisord's XML-RPC, as far as starting a group goes: its address, and the calls it got."""
    calls: list[tuple[object, ...]] = []

    def start_process_group(*args: object) -> list[object]:
        calls.append(args)
        if fault is not None:
            raise Fault(fault, "no")
        return []

    with RpcServer(str(path), Handler, logRequests=False) as server:  # type: ignore[arg-type]
        server.register_function(start_process_group, "supervisor.startProcessGroup")
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"unix://{path}", calls
        server.shutdown()


@pytest.mark.parametrize(("fault", "started"), [(None, True), (Faults.ALREADY_STARTED, True), (Faults.BAD_NAME, False)])
def test_group_is_started_through_supervisord(tmp_path: Path, fault: int | None, started: bool) -> None:
    """The group is started without waiting; one that runs already is fine, one that is not configured is reported."""
    with supervisor_rpc(tmp_path / "s", fault) as (address, calls):
        assert rpc.start_group(address, "api") is started
        assert calls == [("api", False)]


def test_supervisord_that_refuses_is_an_error(tmp_path: Path) -> None:
    """Anything else, such as a supervisord that is shutting down, is the caller's to try again."""
    with supervisor_rpc(tmp_path / "s", Faults.SHUTDOWN_STATE) as (address, _), pytest.raises(Fault):
        rpc.start_group(address, "api")


def test_supervisord_that_never_answers_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call to one that is stopped ends in time; it is not taken for one whose socket is lost."""
    monkeypatch.setattr(rpc, "RPC_TIMEOUT_S", 0.1)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen()
        with pytest.raises(rpc.SupervisordUnreachable, match="timed out") as unreachable:
            rpc.start_group(f"unix://{tmp_path}/s", "api")
    assert not isinstance(unreachable.value, rpc.SocketLost)
    with pytest.raises(rpc.SocketLost, match="refused"):  # the file is left, but no process listens any more
        rpc.start_group(f"unix://{tmp_path}/s", "api")
    with pytest.raises(rpc.SocketLost, match="No such file"):
        rpc.start_group(f"unix://{tmp_path}/none", "api")

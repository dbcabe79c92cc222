"""Programs of Stripe's and of others that talk with the fake of Stripe's API, or are such a fake: from npm and PyPI, in
the versions of the locks in `stripe_programs/`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import locked_programs
from tests.support.instance import free_ports
from tests.support.process import Process

SOURCES = Path(__file__).with_suffix("")
# localstripe listens on all addresses; a module of this name makes it listen on this machine's own only.
LOOPBACK_ONLY = """
import socket
bind = socket.socket.bind
socket.socket.bind = lambda self, address: bind(self, ("::1", *address[1:]))
"""
LOCALSTRIPE_STATE = Path("/tmp/localstripe.pickle")  # it names no other place


def installed(kind: str) -> Path:
    """The folder in which the programs of a kind are installed, `npm` or `localstripe`. Where they cannot be, the test
    is skipped with the reason; in CI it fails.
    """
    install = locked_programs.install_npm if kind == "npm" else _install_localstripe
    return locked_programs.installed(SOURCES, kind, install)


def _install_localstripe(sources: Path, folder: Path) -> None:
    """In an environment of its own: it is never imported."""
    locked_programs.install_locked(sources / "localstripe.lock", folder, "--only-binary=:all:")
    (folder / "loopback").mkdir()
    (folder / "loopback" / "sitecustomize.py").write_text(LOOPBACK_ONLY)


@contextmanager
def running_localstripe(folder: Path, log: Path) -> Iterator[str]:
    """localstripe with an empty state; yields its address."""
    [port] = free_ports(1)
    program = "import sys; from localstripe.server import start; sys.exit(start())"
    command = [str(folder / "bin" / "python"), "-c", program, "--port", str(port), "--from-scratch"]
    try:
        with Process(command, log, {"PYTHONPATH": str(folder / "loopback"), "PYTHONUNBUFFERED": "1"}) as process:
            process.wait_for("Running on")
            yield f"http://[::1]:{port}"
    finally:
        LOCALSTRIPE_STATE.unlink(missing_ok=True)

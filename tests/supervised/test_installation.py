"""`make run`'s installation, stopped at any point: the next one completes it."""

import shutil
import signal
import sys
import zipfile
from hashlib import sha256
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest

from daemon.instance.installation import ROOT
from tests.support.process import Process

# Enough of the real lock to be installed without a network: one package with commands, and what installs the checkout.
LOCKED = ("setuptools", "supervisor")
INSTALL_TIMEOUT_S = 100
PYTHON = str(sys._base_executable)  # type: ignore[attr-defined]
FIRST, LAST = r"pyvenv\.cfg$", r"bin/activate$"  # of what Python writes when it makes a virtual environment
# In every Python of the installation: ends make and all its processes when a file is about to be written.
STOPPER = """
import os, re, sys

def stop_at(event, arguments):
    if event == "open" and re.search(os.environ["STOP_AT"], str(arguments[0])) and arguments[2] & os.O_ACCMODE:
        os.killpg(0, int(os.environ["STOP_BY"]))

if os.environ.get("STOP_AT"):
    sys.addaudithook(stop_at)
"""
# In the place of Python: copies what Python has made as a virtual environment in the same place before. To make it is
# most of the work of an installation, and no work of ours.
COPYING_PYTHON = """#!/bin/sh
if [ "$*" = "-m venv --clear .venv" ]; then
    rm -rf .venv && exec cp -a "$EMPTY_VENV" .venv
fi
exec "$REAL_PYTHON" "$@"
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the locked packages, made from those that are installed here."""
    folder = tmp_path_factory.mktemp("wheels")
    for name in LOCKED:
        pack(distribution(name), folder)
    return folder


def pack(package: Distribution, folder: Path) -> None:
    """Writes an installed package as the wheel that it came from, without what the installation added."""
    name = f"{package.metadata['Name']}-{package.version}"
    with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as wheel:
        for file in package.files or ():
            if (
                ".." not in file.parts
                and "__pycache__" not in file.parts
                and file.name not in ("INSTALLER", "REQUESTED")
            ):
                wheel.write(str(file.locate()), str(file))


class Checkout:
    """A checkout. Each test begins with the same folder, because an installation contains its name."""

    def __init__(self, folder: Path, wheels: Path) -> None:
        self.folder = folder / "checkout"
        self.venv = self.folder / ".venv"
        self._empty_venv, self._complete_venv = folder / "empty", folder / "complete"
        self._copying_python, stopper = folder / "python", folder / "stopper"
        for name in ("daemon", "health_sidecar", "sql"):
            shutil.copytree(ROOT / name, self.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("Makefile", "setup.py", "pyproject.toml"):
            shutil.copy(ROOT / name, self.folder)
        (self.folder / "deploy").mkdir()
        (self.folder / "deploy" / "requirements.lock").write_text("".join(map(_locked, wheels.iterdir())))
        stopper.mkdir()
        (stopper / "sitecustomize.py").write_text(STOPPER)
        self._copying_python.write_text(COPYING_PYTHON)
        self._copying_python.chmod(0o700)
        self._environ = {
            "HOME": str(folder),
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(wheels),
            "PIP_NO_COMPILE": "1",  # compiled files are not compared, and take half of the time
            "PYTHONPATH": str(stopper),
            "REAL_PYTHON": PYTHON,
            "EMPTY_VENV": str(self._empty_venv),
        }

    def install_undisturbed(self) -> None:
        """The installation that others are compared with. Each later test begins without it."""
        self.complete(PYTHON, ".venv/.made")
        shutil.copytree(self.venv, self._empty_venv, symlinks=True, ignore=shutil.ignore_patterns(".made"))
        self.complete(PYTHON)
        self.venv.rename(self._complete_venv)

    def install_as_before(self) -> None:
        """The same, copied."""
        shutil.copytree(self._complete_venv, self.venv, symlinks=True)

    def start(self, python: str = "", target: str = ".venv/.runtime", **environ: str) -> Process:
        """`make` of what `make run` installs, as a process group; with this Python, or the one that copies."""
        command = ["make", f"PYTHON={python or self._copying_python}", target]
        return Process(command, None, self._environ | environ, cwd=self.folder)

    def complete(self, python: str = "", target: str = ".venv/.runtime") -> None:
        """Installs what is missing; it must succeed."""
        made = self.start(python, target)
        output, _ = made.communicate(timeout=INSTALL_TIMEOUT_S)
        assert made.returncode == 0, output

    def check_complete(self) -> None:
        """Exactly the files of the undisturbed installation are there, but for compiled ones."""
        assert _files(self.venv) == _files(self._complete_venv)


def _files(venv: Path) -> set[str]:
    return {str(path.relative_to(venv)) for path in venv.rglob("*") if "__pycache__" not in path.parts}


def _locked(wheel: Path) -> str:
    name, version, *_ = wheel.name.split("-")
    return f"{name}=={version} --hash=sha256:{sha256(wheel.read_bytes()).hexdigest()}\n"


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Checkout:
    """The checkout, after an installation that nothing has interrupted."""
    checkout = Checkout(tmp_path_factory.mktemp("installation"), wheels)
    checkout.install_undisturbed()
    return checkout


@pytest.fixture
def checkout(used: Checkout) -> Checkout:
    """The checkout, with nothing installed in it."""
    shutil.rmtree(used.venv, ignore_errors=True)
    return used


@pytest.mark.parametrize(
    ("point", "by"),
    [
        (FIRST, signal.SIGKILL),
        (LAST, signal.SIGINT),
        (r"supervisor-[^/]*\.dist-info/METADATA$", signal.SIGKILL),
        (r"bin/supervisorctl$", signal.SIGINT),
        (r"donationd-[^/]*\.dist-info/RECORD$", signal.SIGINT),
    ],
)
def test_an_installation_that_was_stopped_is_completed(checkout: Checkout, point: str, by: signal.Signals) -> None:
    """Whether by Ctrl-C or by `kill -9`: the next `make run` installs exactly what an undisturbed one installs."""
    stopped = checkout.start(PYTHON if point in (FIRST, LAST) else "", STOP_AT=point, STOP_BY=str(int(by)))
    stopped.communicate(timeout=INSTALL_TIMEOUT_S)
    assert stopped.returncode != 0
    assert not (checkout.venv / ".runtime").exists()
    checkout.complete(PYTHON if point == FIRST else "")
    checkout.check_complete()


def test_an_installation_of_an_earlier_release_is_renewed(checkout: Checkout) -> None:
    """A `.venv` from before the files that mark what is complete is made again by the first `make run`."""
    checkout.install_as_before()
    (checkout.venv / ".made").unlink()
    checkout.complete()
    checkout.check_complete()


def test_what_is_installed_stays(checkout: Checkout) -> None:
    """A complete installation is not touched again."""
    checkout.install_as_before()
    runtime = checkout.venv / ".runtime"
    before = runtime.stat().st_mtime_ns
    checkout.complete()
    assert runtime.stat().st_mtime_ns == before

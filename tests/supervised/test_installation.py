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
# In every Python of the installation: ends make and all its processes when a file is about to be written.
STOPPER = """
import os, re, sys

def stop_at(event, arguments):
    if event == "open" and re.search(os.environ["STOP_AT"], str(arguments[0])) and arguments[2] & os.O_ACCMODE:
        os.killpg(0, int(os.environ["STOP_BY"]))

if os.environ.get("STOP_AT"):
    sys.addaudithook(stop_at)
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
    """A checkout that nothing is installed in yet."""

    def __init__(self, folder: Path, wheels: Path) -> None:
        self.folder = folder
        self._stopper = folder.with_name("stopper")
        for name in ("daemon", "health_sidecar", "sql"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("Makefile", "setup.py", "pyproject.toml"):
            shutil.copy(ROOT / name, folder)
        (folder / "deploy").mkdir()
        (folder / "deploy" / "requirements.lock").write_text("".join(map(_locked, wheels.iterdir())))
        self._stopper.mkdir()
        (self._stopper / "sitecustomize.py").write_text(STOPPER)
        self._environ = {
            "HOME": str(folder),
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(wheels),
            "PIP_NO_COMPILE": "1",  # compiled files are not compared, and take half of the time
            "PYTHONPATH": str(self._stopper),
        }

    def start(self, **environ: str) -> Process:
        """`make` of what `make run` installs, in a process group of its own."""
        command = ["make", f"PYTHON={sys._base_executable}", ".venv/.runtime"]  # type: ignore[attr-defined]
        return Process(command, None, self._environ | environ, cwd=self.folder)

    def complete(self) -> None:
        """Installs what is missing; it must succeed."""
        made = self.start()
        output, _ = made.communicate(timeout=INSTALL_TIMEOUT_S)
        assert made.returncode == 0, output

    def installed(self) -> set[str]:
        """Every installed file but the compiled ones."""
        venv = self.folder / ".venv"
        return {str(path.relative_to(venv)) for path in venv.rglob("*") if "__pycache__" not in path.parts}


def _locked(wheel: Path) -> str:
    name, version, *_ = wheel.name.split("-")
    return f"{name}=={version} --hash=sha256:{sha256(wheel.read_bytes()).hexdigest()}\n"


@pytest.fixture
def checkout(tmp_path: Path, wheels: Path) -> Checkout:
    """A checkout of the test's own."""
    return Checkout(tmp_path / "checkout", wheels)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Checkout:
    """A checkout whose installation nothing has interrupted."""
    undisturbed = Checkout(tmp_path_factory.mktemp("whole") / "checkout", wheels)
    undisturbed.complete()
    return undisturbed


@pytest.mark.parametrize(
    ("point", "by"),
    [
        (r"pyvenv\.cfg$", signal.SIGKILL),
        (r"bin/activate$", signal.SIGINT),
        (r"supervisor-[^/]*\.dist-info/METADATA$", signal.SIGKILL),
        (r"bin/supervisorctl$", signal.SIGINT),
        (r"donationd-[^/]*\.dist-info/RECORD$", signal.SIGINT),
    ],
)
def test_an_installation_that_was_stopped_is_completed(
    checkout: Checkout, whole: Checkout, point: str, by: signal.Signals
) -> None:
    """Whether by Ctrl-C or by `kill -9`: the next `make run` installs exactly what an undisturbed one installs."""
    stopped = checkout.start(STOP_AT=point, STOP_BY=str(int(by)))
    stopped.communicate(timeout=INSTALL_TIMEOUT_S)
    assert stopped.returncode != 0
    assert not (checkout.folder / ".venv" / ".runtime").exists()
    checkout.complete()
    assert checkout.installed() == whole.installed()


def test_an_installation_of_an_earlier_release_is_renewed(checkout: Checkout, whole: Checkout) -> None:
    """A `.venv` from before the files that mark what is complete is made again by the first `make run`."""
    shutil.copytree(whole.folder / ".venv", checkout.folder / ".venv", symlinks=True)
    (checkout.folder / ".venv" / ".made").unlink()
    checkout.complete()
    assert checkout.installed() == whole.installed()


def test_what_is_installed_stays(whole: Checkout) -> None:
    """A complete installation is not touched again."""
    runtime = whole.folder / ".venv" / ".runtime"
    before = runtime.stat().st_mtime_ns
    whole.complete()
    assert runtime.stat().st_mtime_ns == before

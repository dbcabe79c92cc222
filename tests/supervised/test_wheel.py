"""The wheel: built, installed into an environment of its own, and used outside the checkout."""

import json
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from zipfile import ZipFile

import pytest

from daemon.instance.environment import DEFAULTS
from daemon.instance.installation import ROOT
from daemon.instance.postgres_cluster import elsewhere
from daemon.instance.supervisord import stop_limits
from sql import migrate
from tests.support.guard import also_remove, base_environ
from tests.support.instance import free_ports, get

PARTS = ("daemon", "health_sidecar", "sql", "deploy", "setup.py", "pyproject.toml", "supervisord.conf", "README.md")
STOP_LIMIT_S = stop_limits(DEFAULTS | {"DONATIOND_INCLUDE": "deploy/embedded.conf"}).total_s


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built without a network from a copy in which an earlier release was built before."""
    copy, wheels = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheels")
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy)
    (copy / "deploy" / "container" / "settings.env").write_text("secrets of an operator")
    earlier = copy / "build" / "lib" / "daemon"
    earlier.mkdir(parents=True)
    (earlier / "earlier.py").touch()
    pip("wheel", "--no-build-isolation", "--wheel-dir", str(wheels), str(copy))
    [built] = wheels.glob("*.whl")
    return built


def pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *words, "--no-deps", "--no-index"]
    done = subprocess.run(command, env=base_environ(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


class Installation:
    """The wheel in a virtual environment that has the libraries of this one, but not the checkout."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self._environment = folder / "environment"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(self._environment)], check=True)
        self.packages = Path(sysconfig.get_path("purelib", vars={"base": str(self._environment)}))
        # A folder that a .pth file adds is not searched for more .pth files: the checkout is not followed.
        (self.packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
        pip("--python", str(self._environment / "bin" / "python"), "install", str(wheel))
        self.work = folder / "work"
        self.work.mkdir(mode=0o711)
        self.work.chmod(0o711)

    def command(self, *words: str) -> list[str]:
        """The console command with its arguments."""
        return [str(self._environment / "bin" / "donationd"), *words]

    def run(self, *words: str, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Runs `donationd …` in a folder outside the checkout."""
        return subprocess.run(
            self.command(*words), cwd=self.work, env=environ, capture_output=True, text=True, check=False
        )

    def files(self) -> set[Path]:
        """Every installed file but the compiled ones."""
        return {path for path in self._environment.rglob("*") if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def installation(wheel: Path) -> Iterator[Installation]:
    """The wheel, installed. PostgreSQL's user may enter its folder, unlike pytest's."""
    folder = Path(tempfile.mkdtemp(prefix="wheel-"))
    folder.chmod(0o711)
    also_remove(elsewhere(folder / "work" / ".donationd"))
    yield Installation(folder, wheel)
    for used in (folder, elsewhere(folder / "work" / ".donationd")):
        shutil.rmtree(used, ignore_errors=True)


@contextmanager
def running(installation: Installation, environ: Mapping[str, str]) -> Iterator[str]:
    """`donationd up --embedded`, with what it printed until it was ready."""
    with subprocess.Popen(
        installation.command("up", "--embedded"),
        cwd=installation.work,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as up:
        assert up.stdout is not None
        try:
            printed = ""
            while "Ctrl-C stops everything" not in printed:
                line = up.stdout.readline()
                assert line, f"it ended before it was ready:\n{printed}"
                printed += line
            yield printed
        finally:
            up.terminate()
            up.communicate(timeout=STOP_LIMIT_S)
    assert up.returncode == 0


def test_the_wheel_contains_the_files_that_run_it(wheel: Path) -> None:
    """Its package daemon.instance has supervisord.conf and all of deploy/, as they are in the repository, and no secret
    that was put there."""
    with ZipFile(wheel) as archive:
        packed = {name: archive.read(name) for name in archive.namelist()}
    prefix = "daemon/instance/files/"
    named = {name.removeprefix(prefix): content for name, content in packed.items() if name.startswith(prefix)}
    deployed = [path for path in (ROOT / "deploy").rglob("*") if path.is_file() and not path.name.endswith(".env")]
    wanted = {str(path.relative_to(ROOT)): path.read_bytes() for path in [ROOT / "supervisord.conf", *deployed]}
    assert named == wanted


def test_the_wheel_contains_no_module_of_an_earlier_release(wheel: Path) -> None:
    """Its modules are those of the checkout, whatever an earlier build has left."""
    with ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.endswith(".py")}
    sources = [path for package in ("daemon", "health_sidecar", "sql") for path in (ROOT / package).rglob("*.py")]
    assert packed == {str(path.relative_to(ROOT)) for path in sources}


def test_a_whole_instance_runs_from_the_wheel(installation: Installation) -> None:
    """In another folder `up --embedded`, `tickets`, `simulate` and `status` work; the state is in that folder, and
    nothing is written where the wheel is installed. A module of the same folder replaces none of the libraries.
    """
    for name in ("daemon", "stripe", "json"):
        (installation.work / f"{name}.py").write_text("raise SystemExit('this is no module of donationd')\n")
    ports = map(str, free_ports(2))
    environ = base_environ() | dict(zip(("PORT", "METRICS_PORT"), ports, strict=True))
    before = installation.files()
    with running(installation, environ) as printed:
        state = installation.work / ".donationd"
        assert f"{state}/logs" in printed
        assert get(f"http://127.0.0.1:{environ['PORT']}/health")[0] == 200
        assert installation.run("tickets", "add", "story-1", environ=environ).stdout == "added story-1\n"
        simulated = installation.run("simulate", "--payments", "3", environ=environ)
        assert (simulated.returncode, "3 payments" in simulated.stdout) == (0, True), simulated.stderr
        report = json.loads(installation.run("status", "--json", environ=environ).stdout)
        assert {process["state"] for process in report["processes"]} == {"RUNNING"}
        assert report["readiness"]["ready"]
        assert installation.files() == before
    assert (state / "postgres.json").is_file()


def test_the_wheel_migrates_a_database(installation: Installation, empty_url: str) -> None:
    """`migrate` applies every migration to a database without tables."""
    environ = base_environ() | {"MIGRATE_DATABASE_URL": empty_url}
    applied = installation.run("migrate", "--json", environ=environ)
    assert json.loads(applied.stdout)["applied"] == [migration.name for migration in migrate.discover()]
    assert installation.run("migrate", "--status", environ=environ).stdout == "the schema is up to date\n"


def test_the_commands_are_those_of_the_wheel(installation: Installation) -> None:
    """No module of the checkout is imported."""
    where = "import daemon, health_sidecar, sql; print(daemon.__file__, health_sidecar.__file__, sql.__file__)"
    done = subprocess.run(
        [str(Path(installation.command()[0]).with_name("python")), "-P", "-c", where],
        cwd=installation.work,
        env=base_environ(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [
        f"{installation.packages}/{name}/__init__.py" for name in ("daemon", "health_sidecar", "sql")
    ]

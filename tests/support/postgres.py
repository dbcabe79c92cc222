"""A PostgreSQL server of a test's own, from the embedded package, from TEST_PG_BIN's folder, or from Debian."""

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from psycopg2.extensions import connection as Connection

from daemon.instance.postgres_programs import can_run, copy_programs, find_programs
from tests.support.guard import also_remove

USER = "donationd_owner"
_numbers = itertools.count(1)
MakeTemplate = Callable[[Callable[[str], None]], str]
Clone = Callable[[str], AbstractContextManager[str]]
# What the startup gate asks of a server, for all roles of it.
PRIVATE_LOG = {"log_min_error_statement": "panic", "log_error_verbosity": "terse"}

# A file system in memory, and the room that several servers need there.
MEMORY, MEMORY_BYTES = Path("/dev/shm"), 4 << 30


class Server:
    """A PostgreSQL cluster in a folder of its own, reached by a Unix socket there only."""

    def __init__(self, home: Path, programs: Path | None = None) -> None:
        home.chmod(0o755)
        self.home = home
        # PostgreSQL refuses to run as root.
        self.user = "nobody" if os.geteuid() == 0 else None
        if self.user:
            shutil.chown(home, self.user)
        self.programs = programs or self._programs()
        self.url = f"postgresql://{USER}@/{{name}}?host={home}"
        self.log = home / "log"

    def _programs(self) -> Path:
        if "TEST_PG_BIN" in os.environ:
            return Path(os.environ["TEST_PG_BIN"])
        programs = find_programs()
        if self.user is None or can_run(programs, self.user):
            return programs
        return copy_programs(programs, self.home, print)

    def run(self, program: str, *arguments: str) -> None:
        """Runs one of PostgreSQL's programs as the server's user."""
        command = [str(self.programs / program), "-D", str(self.home / "data"), *arguments]
        try:
            subprocess.run(
                command,
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                cwd=self.home,
                user=self.user,
            )
        except subprocess.CalledProcessError as error:
            error.add_note(error.stderr)
            raise

    def create(self, *options: str) -> None:
        """Makes an empty cluster, with these options of initdb besides the usual ones."""
        self.run("initdb", "-N", "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", *options)

    def start(self, settings: Mapping[str, str]) -> None:
        """Returns when it takes connections."""
        settings = {"listen_addresses": "", "unix_socket_directories": str(self.home), **PRIVATE_LOG, **settings}
        options = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
        self.run("pg_ctl", "-w", "-l", str(self.log), "-o", options, "start")

    def stop(self, mode: str) -> None:
        """Stops it as pg_ctl's `mode` says, and returns when it has ended."""
        self.run("pg_ctl", "-w", "-m", mode, "stop")

    def dump(self, url: str, *options: str) -> str:
        """Everything a database holds, as text; with pg_dump's options a part of it."""
        return subprocess.run(
            [str(self.programs / "pg_dump"), *options, url], check=True, capture_output=True, text=True, cwd=self.home
        ).stdout


def _usable_memory() -> Path | None:
    """The file system in memory, if it has room and programs can be run from it."""
    if not MEMORY.is_dir() or os.statvfs(MEMORY).f_flag & os.ST_NOEXEC:
        return None
    return MEMORY if shutil.disk_usage(MEMORY).free > MEMORY_BYTES else None


@contextmanager
def running_server(
    settings: Mapping[str, str], programs: Path | None = None, *, in_memory: bool = False
) -> Iterator[Server]:
    """A new server with these settings.

    Args:
        programs: the folder of its programs; those of the embedded package unless given.
        in_memory: whether its data may be in memory, where no commit waits for a disk. No other setting changes.
    """
    place = _usable_memory() if in_memory else None
    with tempfile.TemporaryDirectory(prefix="donationd-pg-", dir=place, ignore_cleanup_errors=True) as folder:
        also_remove(Path(folder))
        server = Server(Path(folder), programs)
        server.create()
        server.start(settings)
        try:
            yield server
        finally:
            server.stop("immediate")


@contextmanager
def own_database(postgres: str, administrator: Connection, template: str) -> Iterator[str]:
    """The URL of a new database, which is dropped at the end. To copy its files takes two thirds of the time of copying
    its pages.

    Args:
        postgres: the server's URL, with `{name}` where the database's name belongs.
        administrator: a connection that creates and drops databases.
        template: the name of the database that it is cloned from.
    """
    name = f"test_{next(_numbers)}"
    with administrator.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        yield postgres.format(name=name)
        cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


def debian_programs() -> Path:
    """The folder of Debian's PostgreSQL 15. Without it the test is skipped with the reason; in CI it fails."""
    programs = Path("/usr/lib/postgresql/15/bin")
    if not (programs / "postgres").is_file():
        reason = "PostgreSQL 15 of Debian is not installed: apt-get install postgresql-15"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return programs

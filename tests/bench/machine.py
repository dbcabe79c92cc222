"""The processes under measurement, each as in production: PostgreSQL, the sidecar, API processes that share a port."""

import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path

import psycopg2

from daemon.runtime.lifecycle import die_with_parent
from sql import migrate
from tests.support.guard import base_environ
from tests.support.postgres import PRIVATE_LOG, USER, Server

SECRET = "whsec_" + "bench" * 8
API, ONE_BY_ONE, EMPTY = "daemon.api", "tests.bench.one_by_one", "tests.bench.empty"
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0
POLL_S = 0.05
# SHORT=1 shows in a minute that everything runs: tables and times are this much smaller, and the figures mean nothing.
SHARE = 20 if os.environ.get("SHORT") else 1
LOOKS = 20  # a fresh connection each, so that every process behind the port has answered
ROOT = Path(__file__).parents[2]


class Broken(Exception):
    """The benchmark can't go on; the message says why."""


@dataclass(frozen=True)
class Site:
    """Processes behind one port of 127.0.0.1."""

    port: int
    pids: tuple[int, ...]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@dataclass(frozen=True)
class Stored:
    """A migrated database, and where its sidecar says that it is ready."""

    url: str
    readiness: Path


@contextmanager
def postgres() -> Iterator[Server]:
    """A PostgreSQL with its default durability, in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="donationd-bench-", ignore_cleanup_errors=True) as folder:
        server = Server(Path(folder))
        server.run("initdb", "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C")
        options = {"listen_addresses": "", "unix_socket_directories": folder, "max_connections": "50", **PRIVATE_LOG}
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        command = [str(server.programs / "postgres"), "-D", f"{folder}/data", *words]
        with running(command, Path(folder) / "log", user=server.user, stop=signal.SIGINT):
            _await_postgres(server)
            yield server


def _await_postgres(server: Server) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while not _answers(server):
        if time.monotonic() > deadline_s:
            raise Broken("PostgreSQL does not start")
        time.sleep(POLL_S)


def _answers(server: Server) -> bool:
    try:
        query(server.url.format(name="postgres"), "SELECT 1")
    except psycopg2.OperationalError:
        return False
    return True


def query(url: str, sql: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
    """Runs one statement, outside any transaction of its own making, and returns its rows."""
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql, values or None)
            return cursor.fetchall() if cursor.description else []


@contextmanager
def stored(server: Server, name: str, folder: Path) -> Iterator[Stored]:
    """A new, migrated database with a sidecar of its own."""
    query(server.url.format(name="postgres"), f"CREATE DATABASE {name}")
    url = server.url.format(name=name)
    migrate.apply(url)
    readiness = folder / f"{name}.sock"
    environ = {"DATABASE_URL": url, "READINESS_SOCKET": str(readiness), "METRICS_PORT": "0"}
    with running([sys.executable, "-m", "health_sidecar"], folder / f"{name}-sidecar.log", environ=environ):
        yield Stored(url, readiness)


_numbers = itertools.count(1)


@contextmanager
def site(
    module: str, database: Stored, folder: Path, *, processes: int = 1, settings: Mapping[str, str] = {}
) -> Iterator[Site]:
    """Processes of `module` on one inherited listening socket, as supervisord's fcgi-program starts them.

    Args:
        settings: more of their environment.
    """
    name = f"{module.rpartition('.')[2]}-{next(_numbers)}"
    metrics = folder / f"{name}-metrics"
    metrics.mkdir()
    with closing(socket.create_server(("127.0.0.1", 0), backlog=socket.SOMAXCONN)) as listener:
        port = int(listener.getsockname()[1])
        environ = {
            "DATABASE_URL": database.url,
            "READINESS_SOCKET": str(database.readiness),
            "STRIPE_WEBHOOK_SECRET": SECRET,
            "STRIPE_LIVEMODE": "false",
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "PROMETHEUS_MULTIPROC_DIR": str(metrics),
            **settings,
        }
        command = [sys.executable, "-m", module]
        with ExitStack() as stack:
            pids = [
                stack.enter_context(
                    running(
                        command,
                        folder / f"{name}-{slot}.log",
                        environ={**environ, "API_SLOT": str(slot)},
                        stdin=listener.fileno(),
                    )
                )
                for slot in range(processes)
            ]
            started = Site(port, tuple(pids))
            _await_ready(started)
            yield started


def resident_mb(where: Site) -> float:
    """What the site's one process holds in memory."""
    [pid] = where.pids
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def forget_peak(where: Site) -> None:
    """From now on the peak of the one process's resident memory is a new one (proc(5), clear_refs)."""
    [pid] = where.pids
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_mb(where: Site) -> float:
    """The most that it held in memory since then."""
    [pid] = where.pids
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _await_ready(started: Site) -> None:
    """Returns when every process answers and believes its sidecar."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    answers = 0
    while answers < LOOKS:
        if _is_ready(started):
            answers += 1
            continue
        answers = 0
        if time.monotonic() > deadline_s:
            raise Broken(f"{started.url} does not get ready")
        time.sleep(POLL_S)


def _is_ready(started: Site) -> bool:
    try:
        with urllib.request.urlopen(f"{started.url}/health/db", timeout=START_TIMEOUT_S) as reply:  # noqa: S310
            return bool(reply.status == HTTPStatus.OK)
    except OSError:
        return False


@contextmanager
def running(
    command: Sequence[str],
    log: Path,
    *,
    environ: Mapping[str, str] | None = None,
    stdin: int = subprocess.DEVNULL,
    user: str | None = None,
    stop: signal.Signals = signal.SIGTERM,
    pass_fds: Sequence[int] = (),
) -> Iterator[int]:
    """A process that dies with us, be it by kill -9; its pid. Ctrl-C reaches us alone, and we stop it.

    Args:
        environ: all of its environment but for the search path.
        stop: the signal that asks it to end.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/" if user else ROOT,
            env={**base_environ(), **(environ or {})},
            start_new_session=True,
            preexec_fn=partial(die_with_parent, signal.SIGKILL),  # noqa: PLW1509 - it takes no lock that a thread may hold
            user=user,
            pass_fds=pass_fds,
        )
    try:
        yield process.pid
    finally:
        process.send_signal(stop)
        try:
            process.wait(STOP_TIMEOUT_S)
        finally:
            process.kill()
            process.wait()

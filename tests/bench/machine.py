"""The processes under measurement, each as in production: the sidecar, and API processes that share a port."""

import itertools
import os
import socket
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import psycopg2

from sql import migrate
from tests.support.postgres import Server
from tests.support.process import Process

SECRET = "whsec_" + "bench" * 8
API, ONE_BY_ONE, EMPTY = "daemon.api", "tests.bench.one_by_one", "tests.bench.empty"
WITHOUT_JOURNAL = "tests.bench.without_journal"
START_TIMEOUT_S = 30.0
POLL_S = 0.05
# SHORT=1 shows in a minute that everything runs: tables and times are this much smaller, and the figures mean nothing.
SHARE = 20 if os.environ.get("SHORT") else 1
LOOKS = 20  # a fresh connection each, so that every process behind the port has answered


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
    with Process([sys.executable, "-m", "health_sidecar"], folder / f"{name}-sidecar.log", environ):
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
            started = Site(
                port,
                tuple(
                    stack.enter_context(
                        Process(
                            command,
                            folder / f"{name}-{slot}.log",
                            {**environ, "API_SLOT": str(slot)},
                            stdin=listener.fileno(),
                        )
                    ).pid
                    for slot in range(processes)
                ),
            )
            await_ready(started)
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


def await_ready(started: Site) -> None:
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

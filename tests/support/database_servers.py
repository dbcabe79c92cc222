"""Servers of a test's own, and what becomes of a statement while they are in trouble."""

import asyncio
import contextlib
import os
import resource
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from sql.database import Database
from sql.errors import DatabaseUnavailable
from tests.chaos.proxy import HOST
from tests.support.postgres import USER, Server

LOCKED = "SELECT pg_advisory_xact_lock(2)"
SOON_S = 20.0  # a test that waits longer than this for something has failed
SHORT_S = 0.3  # how long the stock driver is watched while it hangs

Open = Callable[..., Database]


class Instance(Server):
    """A server of these tests' own, to be stopped, killed and promoted."""

    def crash(self) -> None:
        """Stops it without a checkpoint, if it runs."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self.stop("immediate")

    @property
    def socket(self) -> str:
        return f"{self.home}/.s.PGSQL.5432"

    def connect(self) -> psycopg2.extensions.connection:
        """A connection of the test's own."""
        return psycopg2.connect(host=str(self.home), user=USER, dbname="postgres")

    def ask(self, sql: str, *params: object) -> list[Any]:
        """Asks it directly; the first column of what it answers."""
        connection = self.connect()
        connection.autocommit = True
        with contextlib.closing(connection), connection.cursor() as cursor:
            cursor.execute(sql, params)
            return [row[0] for row in cursor.fetchall()] if cursor.description else []

    def running(self, application_name: str) -> list[int]:
        """The backends that work on a statement of this application."""
        return self.ask(
            "SELECT pid FROM pg_stat_activity WHERE application_name = %s AND state = 'active'", application_name
        )

    def pids(self) -> list[int]:
        """The postmaster's, and those of all its children."""
        main = int((self.home / "data/postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        return [main, *map(int, children)]


@contextlib.contextmanager
def own_server() -> Iterator[Instance]:
    """A server that a test may restart and stop."""
    with tempfile.TemporaryDirectory(prefix="donationd-own-", ignore_cleanup_errors=True) as folder:
        instance = Instance(Path(folder))
        instance.create()
        instance.start({"fsync": "off"})
        yield instance
        instance.crash()


@contextlib.contextmanager
def standby_of(server: Instance) -> Iterator[Instance]:
    """A streaming standby of a server."""
    with tempfile.TemporaryDirectory(prefix="donationd-standby-", ignore_cleanup_errors=True) as folder:
        standby = Instance(Path(folder))
        standby.run("pg_basebackup", "-R", "-c", "fast", "-h", str(server.home), "-U", USER)
        standby.start({"fsync": "off"})
        yield standby
        standby.crash()


@contextlib.asynccontextmanager
async def opened_databases(server: Instance) -> AsyncIterator[Open]:
    """Opens databases with short limits. At the end they are closed, and nothing of them runs on the server."""
    opened = []

    def open_(url: str, **settings: Any) -> Database:
        limits = {"pool_size": 2, "statement_timeout_s": 20, "connect_timeout_s": 2, "application_name": "ours"}
        opened.append(Database(url, **{**limits, **settings}))
        return opened[-1]

    yield open_
    for database in opened:
        await database.close()
    for name in ("ours", "stock"):
        for pid in server.running(name):
            server.ask("SELECT pg_terminate_backend(%s, 5000)", pid)


@contextlib.contextmanager
def many_open_files() -> Iterator[None]:
    """The next file's number is over 1023."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], 2048), before[1]))
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1024)]
    yield
    for file in opened:
        os.close(file)
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def at(*where: Instance | int, **options: str) -> str:
    """The URL of these servers: instances by their Unix sockets, numbers are TCP ports on 127.0.0.1."""
    hosts = [HOST if isinstance(each, int) else str(each.home) for each in where]
    ports = [str(each) if isinstance(each, int) else "5432" for each in where]
    query = {"host": ",".join(hosts), "port": ",".join(ports), **options}
    return f"postgresql://{USER}:hunter2@/postgres?" + "&".join(f"{name}={value}" for name, value in query.items())


async def until(true: Callable[[], object]) -> None:
    """Waits for what can only be asked for."""
    async with asyncio.timeout(SOON_S):
        while not true():  # noqa: ASYNC110 - the server and the driver have no event for it
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def busy(server: Instance, database: Database) -> AsyncIterator[None]:
    """A statement of the database runs until the end of the block, and is then done."""
    with contextlib.closing(server.connect()) as holder, holder.cursor() as cursor:
        cursor.execute(LOCKED)
        task = asyncio.create_task(database.fetch(LOCKED))
        await until(lambda: server.running("ours"))
        yield
        holder.rollback()
    async with asyncio.timeout(SOON_S):
        await task


async def hangs(work: Awaitable[object]) -> bool:
    """Whether it is still waiting after a while; then it is ended."""

    async def wait() -> None:
        await work

    task = asyncio.create_task(wait())
    await asyncio.wait({task}, timeout=SHORT_S)
    hung = not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return hung


async def kind(work: Awaitable[object]) -> str:
    """The kind of outage that it reports."""
    with pytest.raises(DatabaseUnavailable) as caught:
        await work
    return caught.value.kind

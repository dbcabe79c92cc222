"""A pooler in front of PostgreSQL: in session mode nothing changes, in transaction mode it is found and reported."""

import asyncio
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import psycopg2
import pytest

from health_sidecar.config import Config
from health_sidecar.gate import open_probe, run_once
from sql import migrate
from sql.database import Database
from sql.errors import DatabaseUnavailable
from sql.session_lock import SessionLock
from tests.support.instance import eventually
from tests.support.ledger import rows
from tests.support.postgres import USER, Server
from tests.support.process import Process

PROGRAM = Path("/usr/sbin/pgbouncer")
PORT = 6432  # of a Unix socket
Pooler = Callable[..., str]


@contextmanager
def pgbouncer(server: Server, mode: str, sessions: int) -> Iterator[Path]:
    """The folder of the socket of a PgBouncer in this mode in front of the server, which both run as the same user."""
    with tempfile.TemporaryDirectory(prefix="donationd-pgbouncer-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "users").write_text(f'"{USER}" ""\n')
        (folder / "pgbouncer.ini").write_text(
            f"""
            [databases]
            * = host={server.home}
            [pgbouncer]
            pool_mode = {mode}
            default_pool_size = {sessions}
            listen_port = {PORT}
            unix_socket_dir = {folder}
            auth_type = trust
            auth_file = {folder}/users
            """
        )
        for path in (folder, *folder.iterdir()):
            path.chmod(0o755)
            if server.user:
                shutil.chown(path, server.user)
        command = [PROGRAM, folder / "pgbouncer.ini"]
        with Process(command, folder / "log", stop=signal.SIGKILL, cwd=Path("/"), user=server.user):
            eventually(lambda: listens(folder / f".s.PGSQL.{PORT}"), "PgBouncer listens")
            yield folder


def listens(path: Path) -> bool:
    """Whether a process takes connections at a socket, which is there a moment earlier."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


@pytest.fixture
def pooled(server: Server, database_url: str) -> Iterator[Pooler]:
    """Starts a PgBouncer in a mode, with at most so many sessions; returns the test database's URL through it."""
    if not PROGRAM.exists():
        reason = "PgBouncer is not installed: apt-get install pgbouncer"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with ExitStack() as stack:

        def start(mode: str, sessions: int = 20) -> str:
            folder = stack.enter_context(pgbouncer(server, mode, sessions))
            url = f"{database_url.replace(str(server.home), str(folder))}&port={PORT}"
            return url

        yield start


def test_transaction_mode_is_reported(pooled: Pooler, capsys: pytest.CaptureFixture[str]) -> None:
    """The gate passes, because all its checks do, and says what to change."""
    assert run_once({"DATABASE_URL": pooled("transaction")}) == 0
    [warning] = [line for line in capsys.readouterr().out.splitlines() if "⚠️" in line]
    assert "pooler in transaction mode" in warning
    assert "pool_mode = session" in warning


def test_session_mode_is_as_good_as_no_pooler(pooled: Pooler, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is reported."""
    assert run_once({"DATABASE_URL": pooled("session")}) == 0
    assert "⚠️" not in capsys.readouterr().out


def test_a_session_that_another_ledger_has_used_has_the_search_path_of_this_one(pooled: Pooler) -> None:
    """In session mode one session of the server serves the processes of several charities, one after the other."""
    url = pooled("session", sessions=1)
    question = "SELECT pg_backend_pid(), current_setting('search_path')"
    found = [rows(url, question, schema=schema) for schema in ("helpers", "public", "shelter")]
    assert [path for [(_pid, path)] in found] == ["helpers", "public", "shelter"]
    assert len({pid for [(pid, _path)] in found}) == 1


@pytest.mark.parametrize("mode", ["session", "transaction", "statement"])
async def test_shared_sessions_are_found_however_busy_the_pooler_is(pooled: Pooler, mode: str) -> None:
    """Other clients take the sessions in between; a session of one's own is never taken for a shared one."""
    url = pooled(mode)
    clients = Database(url, pool_size=6, statement_timeout_s=5, connect_timeout_s=5, application_name="test clients")
    config = Config.from_environ({"DATABASE_URL": url})

    async def work() -> None:
        while True:
            await clients.fetch("SELECT count(*) FROM pg_class")

    async with asyncio.TaskGroup() as group:
        others = [group.create_task(work()) for _ in range(6)]
        for _ in range(20):
            probe = open_probe(config, "test probe")
            assert await probe.shares_sessions() == (mode != "session")
            await probe.close()
        for task in others:
            task.cancel()
    await clients.close()


def test_migrations_leave_nothing_in_a_shared_session(pooled: Pooler, database_url: str) -> None:
    """Neither a lock nor a time limit nor a charity's schema that another client of the pooler would get. What they
    need they set in each transaction, which may have another session."""
    url = pooled("transaction")
    assert migrate.drift(url, schema="helpers").missing == tuple(each.name for each in migrate.discover())
    rows(database_url, "DELETE FROM schema_migrations WHERE name = '0025_daily_sums.sql'")
    rows(database_url, "DROP TABLE daily_sums, daily_sums_state")
    assert migrate.apply(url) == ["0025_daily_sums.sql"]
    assert rows(database_url, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('lock_timeout'), current_setting('search_path')")
        assert cursor.fetchone() == ("0", '"$user", public')


async def test_a_session_lock_is_refused_where_sessions_are_shared(pooled: Pooler) -> None:
    """In transaction mode it would be the lock of all clients; nothing of it remains in the pooler's session."""
    for url, taken in ((pooled("session"), [True, False]), (pooled("transaction"), ["session shared"] * 2)):
        locks = [SessionLock(url, "jobs", application_name="test lock") for _ in taken]
        assert [await acquired(lock) for lock in locks] == taken
        for lock in locks:
            lock.close()


async def acquired(lock: SessionLock) -> bool | str:
    """Whether the lock was free, or why it cannot be taken."""
    try:
        return await lock.acquire()
    except DatabaseUnavailable as error:
        return error.kind


async def test_statements_that_transaction_mode_loses_are_no_contention(pooled: Pooler) -> None:
    """Two writers meet each other's prepared statements: the trouble has its own name, with what to change."""
    url = pooled("transaction")
    writers = [
        Database(url, pool_size=1, statement_timeout_s=5, connect_timeout_s=5, application_name=f"donationd test {n}")
        for n in range(2)
    ]
    ask = [writer.fetch("EXECUTE ask", prepare="PREPARE ask AS SELECT 1") for writer in writers]
    assert await ask[0] == [(1,)]
    with pytest.raises(DatabaseUnavailable, match="prepared statement lost"):
        await ask[1]
    for writer in writers:
        await writer.close()

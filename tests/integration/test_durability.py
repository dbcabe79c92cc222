"""What is acknowledged is durable: on the disk, and on the synchronous standby's if the server waits for one."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from health_sidecar.gate import run_once
from sql import migrate
from sql.database import Database
from sql.errors import DatabaseUnavailable
from tests.support.instance import eventually
from tests.support.live import living
from tests.support.postgres import USER, Server, debian_programs, running_server

APPLICATION = "donationd test"
API = "donationd api"


def ask(url: str, sql: str, *params: object) -> list[object]:
    """Asks the server directly, whatever standby is missing; the first column of what it answers."""
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SET synchronous_commit = local")
            cursor.execute(sql, params)
            return [row[0] for row in cursor.fetchall()] if cursor.description else []


@pytest.fixture(scope="module", params=["the embedded PostgreSQL", "Debian's PostgreSQL 15, in German"])
def own(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that can be made to wait for a standby that does not exist. Its messages are translated if it can."""
    programs = debian_programs() if "Debian" in request.param else None
    with pytest.MonkeyPatch.context() as environ:
        environ.setenv("LANGUAGE", "de")
        with running_server({"lc_messages": "C.UTF-8"}, programs, in_memory=True) as server:
            yield server


@pytest.fixture(scope="module")
def own_template(own: Server) -> str:
    """The name of a migrated database of that server, to clone from."""
    ask(own.url.format(name="postgres"), "CREATE DATABASE template_ledger")
    migrate.apply(own.url.format(name="template_ledger"))
    return "template_ledger"


@pytest.fixture
def url(own: Server, own_template: str) -> Iterator[str]:
    """A migrated database; afterwards the server waits for no standby any more."""
    postgres, url = own.url.format(name="postgres"), own.url.format(name="ledger")
    ask(postgres, f"CREATE DATABASE ledger TEMPLATE {own_template}")
    yield url
    wait_for_standby("", url)
    ask(postgres, "DROP DATABASE ledger WITH (FORCE)")


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    """The writer's connection."""
    database = Database(url, pool_size=1, statement_timeout_s=20, connect_timeout_s=5, application_name=APPLICATION)
    yield database
    await database.close()


def wait_for_standby(name: str, url: str) -> None:
    """From now on each commit waits for the standby of this name; without a name none does."""
    ask(url, f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
    ask(url, "SELECT pg_reload_conf()")
    eventually(lambda: ask(url, "SHOW synchronous_standby_names") == [name], "the server has read it")
    ask(url, "CHECKPOINT")  # by the process that makes the others wait: it reads the setting before


def waiting(url: str, application: str) -> list[object]:
    """The backends that wait for the standby."""
    return ask(url, "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name = %s",
               application)  # fmt: skip


def end(url: str, how: str, application: str, is_over: Callable[[], bool]) -> None:
    """Calls the server's function `how` for what waits for the standby, as soon as something does."""
    eventually(lambda: is_over() or bool(waiting(url, application)), "it waits for the standby")
    ask(url, f"SELECT {how}(pid) FROM unnest(%s) AS pid", waiting(url, application))  # noqa: S608 - constants


async def end_the_wait(url: str, how: str, work: Awaitable[object]) -> None:
    """Awaits what commits, and ends its wait for the standby."""
    task = asyncio.ensure_future(work)
    await asyncio.to_thread(end, url, how, APPLICATION, task.done)
    await task


WRITE = "INSERT INTO recording_tickets (id) VALUES ('story-1') RETURNING id"


@pytest.mark.parametrize(
    ("default", "used"),
    [("off", "on"), ("local", "on"), ("remote_write", "on"), ("on", "on"), ("remote_apply", "remote_apply")],
)
async def test_no_default_weakens_a_commit(default: str, used: str, url: str, database: Database) -> None:
    """Whatever the role's or the database's default is, a session waits for the disk and the standby."""
    for what in (f"ROLE {USER}", "DATABASE ledger"):
        ask(url, f"ALTER {what} SET synchronous_commit = {default}")
        try:
            assert await database.fetch("SHOW synchronous_commit") == [(used,)]
        finally:
            ask(url, f"ALTER {what} RESET synchronous_commit")
        await asyncio.to_thread(ask, url, "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                                "WHERE application_name = %s", APPLICATION)  # fmt: skip


@pytest.mark.parametrize(
    ("before", "level"),
    [("", "notice"), ("", "error"), ("SELECT 1; ", "error"), ("SELECT generate_series(1, 10000); ", "notice")],
)
async def test_a_cancelled_wait_for_the_standby_is_an_outage(
    before: str, level: str, url: str, database: Database
) -> None:
    """The server commits and only warns, in its own language; also where such warnings would not be sent."""
    ask(url, f"ALTER DATABASE ledger SET client_min_messages = {level}")
    wait_for_standby("nowhere", url)
    with pytest.raises(DatabaseUnavailable) as caught:
        await end_the_wait(url, "pg_cancel_backend", database.fetch(before + WRITE))
    assert caught.value.kind == "not replicated"
    assert ask(url, "SELECT id FROM recording_tickets") == ["story-1"]  # it did commit, here
    assert await database.fetch("SELECT 1") == [(1,)]  # the next statement has nothing to do with it


async def test_a_backend_that_ends_during_the_wait_is_an_outage(url: str, database: Database) -> None:
    """The connection is closed before the reply."""
    wait_for_standby("nowhere", url)
    with pytest.raises(DatabaseUnavailable) as caught:
        await end_the_wait(url, "pg_terminate_backend", database.fetch(WRITE))
    assert caught.value.kind == "connection lost"


async def test_another_warning_changes_nothing(database: Database) -> None:
    """A statement that warns is done, and nothing of its warnings is kept."""
    warn = "RAISE WARNING 'secret: might not have been replicated to the standby'"
    await database.fetch(f"DO $$ BEGIN FOR n IN 1..1000 LOOP {warn}; END LOOP; END $$")
    [connection] = database._idle
    assert "secret" not in str(vars(connection.raw.notices))


def test_the_api_answers_503(url: str, tmp_path: Path) -> None:
    """A delivery whose commit may be missing on the standby is not acknowledged, nor is the same event when it comes
    again and is "seen before" on this server; when nothing waits for the standby any more, nothing is lost.
    """
    ask(url, "INSERT INTO recording_tickets VALUES ('story-1')")
    with living(tmp_path, url, url) as live, ThreadPoolExecutor(1) as client:
        assert live.post().status == 200
        wait_for_standby("nowhere", url)
        event = live.event()
        answer = live.post(event)  # its time is over before its wait is
        assert (answer.status, answer.retry_after) == (503, "30")
        end(url, "pg_cancel_backend", API, lambda: False)
        eventually(lambda: not waiting(url, API), "what the API gave up has ended")
        for how in ("pg_cancel_backend", "pg_cancel_backend", "pg_terminate_backend"):
            post = client.submit(live.post, event)
            end(url, how, API, post.done)
            assert (post.result().status, post.result().retry_after) == (503, "30"), how
        # Each line ends with its kind; another one counts, after ten seconds, how often it was repeated.
        assert len(live.api.lines('Database unavailable: timeout"')) == 1
        [line] = live.api.lines('Database unavailable: not replicated"')
        assert "synchronous_standby_names" in str(line["remedy"])
        assert len(live.api.lines('Database unavailable: connection lost"')) == 1
        wait_for_standby("", url)
        live.check_well_again()


def test_the_gate_refuses_a_server_that_loses_commits(capsys: pytest.CaptureFixture[str]) -> None:
    """fsync=off is a failure, whatever else is permitted; what may do harm is a warning. Each names its command."""
    with running_server({"fsync": "off", "full_page_writes": "off"}) as server:
        url = server.url.format(name="postgres")
        migrate.apply(url)
        ask(url, "ALTER DATABASE postgres SET synchronous_commit = off")
        environ = {"DATABASE_URL": url, "ALLOW_LOGGED_STATEMENTS": "true"}
        assert run_once(environ) == 1
        said = capsys.readouterr().out
        assert "❌ fsync is off" in said
        assert "⚠️ full_page_writes is off" in said
        [command] = re.findall("⚠️ synchronous_commit is off by default: .* Run: (.*)", said)
        assert ask(url, "SELECT detail LIKE 'fsync is off%%' FROM health_check_runs") == [True]
        ask(url, command)
        assert run_once(environ) == 1
        assert "synchronous_commit" not in capsys.readouterr().out

"""Trouble with the database, one by one, done to a real PostgreSQL below a real sidecar and a real API.

Each time: a correct status in time, one line that names the trouble, and nothing is lost once it is repaired. So one
sidecar and one API take most of the trouble, one after the other; of each trouble they have one test only, because a
trouble that returns within ten seconds has no further line.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection

from daemon.instance.installation import ROOT
from daemon.instance.postgres import ROLE
from health_sidecar.probe import HISTORY_TABLE, MIGRATIONS_TABLE, REQUIRED_TABLES
from sql import load, migrate
from tests.support.instance import eventually
from tests.support.live import Live, living
from tests.support.postgres import USER, Server
from tests.support.process import WAIT_S
from tests.support.trouble import (
    ADD_TICKET,
    FEW_REQUESTS,
    QUICK_PINGS,
    Start,
    assert_refuses,
    assert_unavailable,
    await_not_ready,
    check_serves,
    done,
    renamed,
    run,
    server_of_its_own,
    starting,
)


def prepare(url: str) -> str:
    """Adds a ticket, and the role that the processes log in as."""
    run(url, (ROOT / "deploy" / "roles.sql").read_text(), ADD_TICKET)
    return url


@pytest.fixture
def ledger(database_url: str) -> str:
    """A ledger of the test's own."""
    return prepare(database_url)


@pytest.fixture
def start(ledger: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts a sidecar and an API on the ledger, as its role unless a URL is given; they have taken a delivery."""
    with starting(ledger, tmp_path_factory) as start:
        yield start


@pytest.fixture(scope="module")
def start_shared(
    postgres: str, administrator: Connection, migrated: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Start]:
    """Starts a sidecar and an API that tests share, on a ledger of this name."""
    with ExitStack() as stack:

        def start(name: str, **environ: str) -> Live:
            administrator.cursor().execute(f"CREATE DATABASE {name} TEMPLATE {migrated}")
            url = prepare(postgres.format(name=name))
            return stack.enter_context(living(tmp_path_factory.mktemp("live"), url.replace(USER, ROLE), url, environ))

        yield start


@pytest.fixture(scope="module")
def usual(start_shared: Start) -> Live:
    """Both processes with the usual interval of pings, so that the sidecar knows from the API what it knows."""
    return start_shared("trouble", WEBHOOK_QUEUE_LIMIT="2")


@pytest.fixture
def live(usual: Live) -> Live:
    """The shared processes, which serve and have not logged anything yet."""
    check_serves(usual)
    usual.clear_logs()
    return usual


@pytest.fixture(scope="module")
def quick(start_shared: Start) -> Live:
    """Both processes with frequent pings."""
    return start_shared("quick_pings", **QUICK_PINGS)


@pytest.fixture
def pinging(quick: Live) -> Live:
    """As `live`, with frequent pings."""
    check_serves(quick)
    quick.clear_logs()
    return quick


# --- A primary that takes no writes -----------------------------------------------------------------------------------

READ_ONLY = ["ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()"]
WRITABLE = ["ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()"]


def test_the_primary_turns_read_only(live: Live) -> None:
    """Deliveries get 503, reads are answered, so it stays ready; a reload back is enough."""
    with done(live.owner_url, READ_ONLY, WRITABLE):
        eventually(lambda: live.post().status == 503, "PostgreSQL has read its configuration", WAIT_S)
        assert_refuses(live, "Database unavailable: read only", reads=True)
        assert live.ready
    live.check_well_again()


def test_the_only_server_is_not_the_one_asked_for(ledger: str, start: Start) -> None:
    """With target_session_attrs=read-write no new connection succeeds: not ready, though the sidecar's own connection
    still answers.
    """
    live = start(f"{ledger.replace(USER, ROLE)}&target_session_attrs=read-write")
    with done(ledger, READ_ONLY, WRITABLE):
        eventually(lambda: live.post().status == 503, "PostgreSQL has read its configuration", WAIT_S)
        await_not_ready(live, "read only")
        assert_refuses(live, "Database unavailable: read only", reads=False)
    live.check_well_again()


def test_a_standby_that_is_not_promoted_at_once(server: Server, ledger: str, tmp_path: Path) -> None:
    """Its reads are answered, its deliveries 503 until it is promoted; nothing is to be done here."""

    def follow(standby: Server) -> None:
        standby.run("pg_basebackup", "-d", ledger, "-R", "-X", "stream", "-c", "fast", "--no-sync")

    with server_of_its_own(follow) as own:
        url = ledger.replace(str(server.home), str(own.server.home))
        with living(tmp_path, url.replace(USER, ROLE), url) as live:
            assert_refuses(live, "Database unavailable: read only", reads=True)
            assert live.ready
            assert run(url, "SELECT pg_promote()") == [(True,)]
            live.check_well_again()


# --- Locks and full pools --------------------------------------------------------------------------------------------


@contextmanager
def idle_in_transaction(url: str, statement: str) -> Iterator[None]:
    """Another session that has run a statement and does not commit."""
    with closing(psycopg2.connect(url)) as session, session.cursor() as cursor:
        cursor.execute(statement)
        yield


LOCKS = (
    "UPDATE ticket_totals SET paid = paid",  # a ticket's totals
    "LOCK TABLE stripe_attributions IN SHARE MODE",  # the donations
    load("lock_ledger"),
)


def test_another_session_holds_a_lock(live: Live) -> None:
    """Deliveries get 503 when they have waited, those too many at once; reads are answered and it stays ready."""
    for lock in LOCKS:
        with idle_in_transaction(live.owner_url, lock):
            assert_unavailable(live.post())
            assert live.total().status == 200
            assert_crowd_is_refused(live)
            assert live.ready
        live.check_well_again()
    assert live.api.lines("Database unavailable: lock held")
    assert live.sidecar.lines("Ping failed") == []


def assert_crowd_is_refused(live: Live) -> None:
    """Of many deliveries at once, all but the few that are in flight or wait are refused without waiting."""
    with ThreadPoolExecutor(10) as crowd:
        answers = list(crowd.map(live.post, [live.event() for _ in range(10)]))
    for answer in answers:
        assert_unavailable(answer)
    at_once = [answer for answer in answers if answer.body["message"] == "There are more events than can wait"]
    assert len(at_once) > len(answers) / 2


def test_a_statement_takes_too_long(live: Live) -> None:
    """503 when its time is over, and it has ended in the server too; reads are answered and it stays ready."""
    with done(
        live.owner_url,
        [
            "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS "
            "'BEGIN PERFORM pg_sleep(60); RETURN new; END'",
            "CREATE TRIGGER dawdle BEFORE INSERT ON stripe_events FOR EACH ROW EXECUTE FUNCTION dawdle()",
        ],
        ["DROP FUNCTION dawdle CASCADE"],
    ):
        assert_refuses(live, "Database unavailable: timeout", reads=True, times=2)
        assert live.ready
    live.check_well_again()
    assert live.sidecar.lines("Ping failed") == []


@contextmanager
def all_connections_taken(url: str) -> Iterator[Callable[[], None]]:
    """Connects until no further connection is possible. Yields a function that does so again, for connections that
    have become free."""
    with ExitStack() as taken:

        def take() -> None:
            with pytest.raises(psycopg2.OperationalError, match="connection"):
                while True:
                    taken.enter_context(closing(psycopg2.connect(url)))

        take()
        yield take


KICK_API_OUT = (
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
    "WHERE datname = current_database() AND application_name = 'donationd api'"
)


def test_all_connections_are_taken(live: Live) -> None:
    """Who is connected is served; who is not gets 503. It stays ready, for those API processes that are connected."""
    with all_connections_taken(live.url) as take_again:
        check_serves(live)
        run(live.owner_url, KICK_API_OUT)
        take_again()
        assert_refuses(live, "Database unavailable: too many connections", reads=False)
        assert live.ready
    live.check_well_again()
    assert live.sidecar.lines("Ping failed") == []


@contextmanager
def passwords_wanted(server: Server, url: str) -> Iterator[None]:
    """The role has to show its password in this database."""
    rules = server.home / "data" / "pg_hba.conf"
    before = rules.read_text()
    [(name,)] = run(url, "SELECT current_database()")
    rules.write_text(f"local {name} {ROLE} scram-sha-256\n{before}")
    try:
        run(url, f"ALTER ROLE {ROLE} PASSWORD 'first'", "SELECT pg_reload_conf()")
        eventually(lambda: not can_connect(url.replace(USER, ROLE)), "PostgreSQL has read its rules", WAIT_S)
        yield
    finally:
        rules.write_text(before)
        run(url, f"ALTER ROLE {ROLE} PASSWORD NULL", "SELECT pg_reload_conf()")


def can_connect(url: str) -> bool:
    """Whether PostgreSQL accepts a connection."""
    try:
        psycopg2.connect(url).close()
    except psycopg2.OperationalError:
        return False
    return True


def test_the_password_is_changed(server: Server, ledger: str, start: Start) -> None:
    """Connections go on. Without them: 503 and not ready, though the sidecar is still connected; the line says what to
    do, and doing it is enough.
    """
    with passwords_wanted(server, ledger):
        live = start(ledger.replace(USER, f"{ROLE}:first"))
        run(ledger, f"ALTER ROLE {ROLE} PASSWORD 'second'")
        check_serves(live)
        run(ledger, KICK_API_OUT)
        assert_unavailable(live.post())
        await_not_ready(live, "authentication failed")
        assert_refuses(live, "Database unavailable: authentication failed", reads=False)
        line, *_more = live.api.lines("Database unavailable: authentication failed")
        assert line["remedy"] == "give the role the password of DATABASE_URL, or change DATABASE_URL and start again"
        live.restart(DATABASE_URL=ledger.replace(USER, f"{ROLE}:second"))
        live.check_well_again()


def test_a_request_finds_a_table_missing(live: Live) -> None:
    """503, with its name in the line, and the sidecar knows at once, not at its next ping."""
    with renamed(live.owner_url, "ticket_totals"):
        assert_unavailable(live.post())
        await_not_ready(live, "schema out of sync")
        assert_refuses(live, 'relation \\"ticket_totals\\" does not exist', reads=False)
    live.check_well_again()


def test_each_table_is_missed(pinging: Live) -> None:
    """Not ready, and the line names the table and what to do; but no request needs the record of our own health."""
    live = pinging
    for table in (*REQUIRED_TABLES, MIGRATIONS_TABLE):
        live.clear_logs()
        with renamed(live.owner_url, table):
            eventually(lambda: bool(live.sidecar.lines("Schema out of sync")), f"{table} is missed", WAIT_S)
            if table == HISTORY_TABLE:
                assert live.post().status == 200
            else:
                await_not_ready(live, "schema out of sync")
                assert_unavailable(live.post())
                assert_unavailable(live.total())
            *refused, line = live.sidecar.lines("Schema out of sync")
            assert line["reason"] == f"missing tables: {table}. Restore them from a backup"
            assert len(refused) <= 1  # what looked in the very moment
        live.check_well_again()
    assert live.sidecar.lines("cannot write health_check_runs") == []


def test_a_migration_is_rolled_back(pinging: Live) -> None:
    """Not ready; the line names the migration and the command that repairs it, which does."""
    live, name = pinging, "0003_event_retention.sql"
    run(live.owner_url, "DROP INDEX events_by_time", "DELETE FROM schema_migrations WHERE name LIKE '0003%'")
    await_not_ready(live, "schema out of sync")
    assert_unavailable(live.post())
    [line] = live.sidecar.lines("Schema out of sync")
    assert line["reason"] == f"migrations not applied: {name}. Run: donationd migrate"
    assert migrate.apply(live.owner_url) == [name]
    live.check_well_again()


def test_a_newer_migration_is_applied(pinging: Live) -> None:
    """An upgrade migrates first: the older version says so once and goes on, and would start as well."""
    live = pinging
    run(live.owner_url, "INSERT INTO schema_migrations VALUES ('0099_later.sql', 'unknown')")
    eventually(lambda: bool(live.sidecar.lines("0099_later.sql")), "it is noticed", WAIT_S)
    live.check_well_again()
    assert len(live.sidecar.lines("0099_later.sql")) == 1
    assert live.sidecar.lines("Ping failed") == []
    live.restart()
    live.check_well_again()


def test_prepared_statements_are_lost(live: Live) -> None:
    """Each delivery finds its statement gone from its connection: it is prepared again, and none is refused."""
    with done(
        live.owner_url,
        [
            "CREATE FUNCTION forget() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN DEALLOCATE ALL; RETURN NULL; END'",
            "CREATE CONSTRAINT TRIGGER forget AFTER INSERT ON stripe_events DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION forget()",  # in the API's session, when its statement has been run
        ],
        ["DROP FUNCTION forget CASCADE"],
    ):
        assert [live.post().status for _ in range(FEW_REQUESTS)] == [200] * FEW_REQUESTS
        live.check_well_again()


def test_tables_are_altered_while_prepared_statements_stand(live: Live) -> None:
    """Columns come and change their types, and no request notices. The last test: they stay so."""
    for statement in (
        "ALTER TABLE stripe_events ADD COLUMN note text",
        "ALTER TABLE stripe_attributions ADD COLUMN note text, ALTER COLUMN ticket_id TYPE varchar(64)",
        "ALTER TABLE ticket_totals ALTER COLUMN currency TYPE varchar(3)",
        "DROP INDEX attributions_by_ticket",
    ):
        run(live.owner_url, statement)
        check_serves(live)
    live.check_well_again()

"""PostgreSQL's own log contains nothing of a donor, and a server that would log it is refused by the startup gate."""

import hashlib
import itertools
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2
import pytest
from click.testing import CliRunner

from daemon.cli.main import main
from daemon.instance.installation import ROOT
from daemon.instance.postgres import ROLE
from health_sidecar.gate import run_once
from sql import migrate
from tests.support.instance import eventually
from tests.support.live import PATIENT, TICKET, Live, living
from tests.support.postgres import USER, Server, debian_programs, running_server

ROLES = (ROOT / "deploy" / "roles.sql").read_text()
# As PostgreSQL is installed, where the tests' usual server is already configured.
STOCK = {"log_min_error_statement": "error", "log_error_verbosity": "default"}
EMAIL = "quetzal@example.com"
DONOR = re.compile(rf"Quetzalcoatl|\bMX\b|{hashlib.sha256(EMAIL.encode()).hexdigest()}")
PASSED = "STARTUP GATE: PASSED"


def run(url: str, *statements: str) -> list[tuple[object, ...]]:
    """Runs each statement by itself; returns the last one's rows."""
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []


@contextmanager
def ledger(server: Server) -> Iterator[str]:
    """The owner's URL of a migrated database, without any role that was set up for it."""
    postgres, url = server.url.format(name="postgres"), server.url.format(name="ledger")
    run(postgres, "CREATE DATABASE ledger")
    try:
        migrate.apply(url)
        run(url, f"INSERT INTO recording_tickets VALUES ('{TICKET}')")  # noqa: S608 - a constant
        yield url
    finally:
        run(postgres, "DROP DATABASE ledger WITH (FORCE)")


@pytest.fixture(scope="module", params=["the embedded PostgreSQL", "Debian's PostgreSQL 15"])
def stock(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server with the settings it is installed with."""
    with running_server(STOCK, debian_programs() if "Debian" in request.param else None) as server:
        yield server


@pytest.fixture
def url(stock: Server) -> Iterator[str]:
    """A ledger on it."""
    with ledger(stock) as url:
        yield url


# --- What is in the log -----------------------------------------------------------------------------------------------


_numbers = itertools.count(1)


def charge() -> dict[str, object]:
    """An event of a new payment that names a donor."""
    now, number = int(time.time()), next(_numbers)
    payment = {
        "id": f"ch_{number}Quetzal",
        "object": "charge",
        "payment_intent": f"pi_{number}Quetzal",
        "created": now,
        "amount": 5000,
        "amount_captured": 5000,
        "amount_refunded": 0,
        "currency": "usd",
        "paid": True,
        "captured": True,
        "status": "succeeded",
        "metadata": {"ticketId": TICKET},
        "billing_details": {"name": "Ana Quetzalcoatl", "email": EMAIL, "address": {"country": "MX"}},
    }
    return {
        "id": f"evt_{number}Quetzal",
        "object": "event",
        "type": "charge.succeeded",
        "created": now,
        "livemode": False,
        "data": {"object": payment},
    }


@contextmanager
def idle_in_transaction(url: str, statement: str) -> Iterator[None]:
    """Another session that has run a statement and does not commit."""
    with closing(psycopg2.connect(url)) as session, session.cursor() as cursor:
        cursor.execute(statement)
        yield


LOCK = "UPDATE ticket_totals SET paid = paid"  # the last that a batch writes to


def lock_timeout(live: Live) -> None:
    """The batch waits for a row that another session holds, until its time is over."""
    with idle_in_transaction(live.owner_url, LOCK):
        assert live.post(charge()).status == 503


WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'donationd api'"


def end_of_the_backend(live: Live) -> None:
    """An administrator ends the session in the middle of the batch."""
    with idle_in_transaction(live.owner_url, LOCK), ThreadPoolExecutor(1) as client:
        post = client.submit(live.post, charge())
        eventually(lambda: bool(run(live.owner_url, WAITING)) or post.done(), "the batch waits")
        run(live.owner_url, WAITING.replace("SELECT pid", "SELECT pg_terminate_backend(pid)"))
        assert post.result().status == 503


def constraint(live: Live) -> None:
    """A row that the database does not take."""
    run(live.owner_url, "ALTER TABLE stripe_attributions ADD CONSTRAINT small CHECK (amount_minor < 1000) NOT VALID")
    try:
        eventually(lambda: live.post(charge()).status == 422, "the delivery is refused for good")
    finally:
        run(live.owner_url, "ALTER TABLE stripe_attributions DROP CONSTRAINT small")


Trouble = Callable[[Live], None]
TROUBLES: dict[Trouble, str] = {lock_timeout: "ERROR: ", end_of_the_backend: "FATAL: ", constraint: "ERROR: "}


def logged(server: Server, url: str, folder: Path, **environ: str) -> list[str]:
    """What the server logs during each trouble below a running sidecar and API; the trouble's own message is in it."""
    folder.mkdir()
    texts = []
    with living(folder, url.replace(USER, ROLE), url, PATIENT | environ) as live:
        eventually(lambda: live.post().status == 200, "a delivery is recorded")
        for trouble, message in TROUBLES.items():
            before = len(server.log.read_text())
            trouble(live)
            eventually(lambda: message in server.log.read_text()[before:], "the trouble is in the log")  # noqa: B023
            live.check_well_again()
            texts.append(server.log.read_text()[before:])
    return texts


def test_no_trouble_brings_a_donor_into_the_log(stock: Server, url: str, tmp_path: Path) -> None:
    """As installed, PostgreSQL logs last name, country or hash; with the settings of deploy/roles.sql it logs none,
    and no statement.
    """
    try:
        run(url, f"CREATE ROLE {ROLE} LOGIN", f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {ROLE}")
        for text in logged(stock, url, tmp_path / "stock", ALLOW_LOGGED_STATEMENTS="true"):
            assert DONOR.search(text)
        run(url, ROLES)
        for text in logged(stock, url, tmp_path / "private"):
            assert DONOR.findall(text) == []
            assert "STATEMENT: " not in text
    finally:
        run(url, f"DROP OWNED BY {ROLE}", f"DROP ROLE {ROLE}")


# --- What the gate says ---------------------------------------------------------------------------------------------


def gate(url: str, environ: Mapping[str, str] = {}) -> int:
    """The exit status of `donationd gate`."""
    return run_once({"DATABASE_URL": url, **environ})


DANGEROUS = [
    *(f"log_min_error_statement = {level}" for level in ("debug5", "warning", "error", "log", "fatal")),
    *(f"log_statement = '{value}'" for value in ("mod", "all")),
    *(f"log_min_duration_statement = {value}" for value in ("0", "'1h'")),
    "log_min_duration_sample = 100",
    "log_transaction_sample_rate = 0.01",
    "debug_print_parse = on",
    "debug_print_rewritten = on",
    "debug_print_plan = on",
]
HARMLESS = [
    "log_min_error_statement = panic",
    "log_statement = ddl",
    "log_duration = on",
    "log_min_duration_sample = 100; ALTER DATABASE {name} SET log_statement_sample_rate = 0",
]


@pytest.fixture
def database_name(shared_url: str) -> Iterator[str]:
    """The name of the shared database, which afterwards has no settings again."""
    [(name,)] = run(shared_url, "SELECT current_database()")
    yield str(name)
    run(
        shared_url,
        f"ALTER DATABASE {name} RESET ALL",
        f"ALTER ROLE {USER} IN DATABASE {name} RESET ALL",
        "DELETE FROM health_check_runs",
    )


@pytest.mark.parametrize("setting", DANGEROUS)
def test_a_server_that_logs_statements_is_refused(
    setting: str, shared_url: str, database_name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The gate names the setting and the command that repairs it, which does; ALLOW_LOGGED_STATEMENTS makes it a
    warning. What is kept of the run names neither role nor database.
    """
    name, _, _ = setting.partition(" ")
    run(shared_url, f"ALTER DATABASE {database_name} SET {setting}")
    assert gate(shared_url, {"ALLOW_LOGGED_STATEMENTS": "true"}) == 0
    assert re.search(f"ALLOW_LOGGED_STATEMENTS permits it.*{name}", capsys.readouterr().out)
    assert gate(shared_url) == 1
    said = capsys.readouterr().out
    assert "STARTUP GATE FAILED" in said
    [command] = re.findall(rf"❌ {name} is '.*'\. A superuser can run: (ALTER ROLE .*)", said)
    [(detail,)] = run(shared_url, "SELECT detail FROM health_check_runs WHERE NOT ok")
    assert name in str(detail)
    assert "deploy/roles.sql" in str(detail)
    assert not re.search(f"{USER}|{database_name}", str(detail))
    run(shared_url, command)
    assert gate(shared_url) == 0


@pytest.mark.parametrize("setting", HARMLESS)
def test_settings_that_log_no_statement_are_accepted(
    setting: str, shared_url: str, database_name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot bring a statement with values into the log is the administrator's choice."""
    for each in f"ALTER DATABASE {database_name} SET {setting.format(name=database_name)}".split("; "):
        run(shared_url, each)
    assert gate(shared_url) == 0
    assert PASSED in capsys.readouterr().out


def test_everything_is_reported_at_once(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each setting has a line of its own, and one file repairs all of them, whatever the database's settings are."""
    run(url, *(f"ALTER DATABASE ledger SET {setting}" for setting in DANGEROUS[::-1]))
    assert gate(url) == 1
    said = capsys.readouterr().out
    for setting in DANGEROUS:
        assert f"❌ {setting.split()[0]} is '" in said
    run(url, ROLES)
    assert gate(url) == 0
    assert gate(url.replace(USER, ROLE)) == 0
    assert "⚠️" not in capsys.readouterr().out
    run(url, f"DROP OWNED BY {ROLE}", f"DROP ROLE {ROLE}")


def test_auto_explain_is_seen_where_it_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    """It logs slow statements with their values; with a share of none, or turned off, it is accepted."""
    explain = {"session_preload_libraries": "auto_explain", "auto_explain.log_min_duration": "0"}
    with running_server(explain, debian_programs()) as server, ledger(server) as url:
        assert gate(url) == 1
        assert "❌ auto_explain.log_min_duration is '0'" in capsys.readouterr().out
        run(url, "ALTER DATABASE ledger SET auto_explain.sample_rate = 0")
        assert gate(url) == 0
        run(url, "ALTER DATABASE ledger RESET auto_explain.sample_rate")
        assert gate(url) == 1
        run(url, ROLES)
        assert gate(url) == gate(url.replace(USER, ROLE)) == 0


def test_without_a_superuser_the_commands_are_printed(stock: Server) -> None:
    """An owner who may make roles gets the commands for an administrator printed, those for the log's settings among
    them; once these have been run the gate passes, and there is nothing left to print.
    """
    postgres = stock.url.format(name="postgres")
    url = stock.url.format(name="ledger")
    owner, role = url.replace(USER, "charity"), url.replace(USER, ROLE)
    run(postgres, "CREATE ROLE charity LOGIN CREATEROLE", "CREATE DATABASE ledger OWNER charity")
    try:
        commands = [line for line in printed(owner) if line.endswith(";")]
        migrate.apply(owner)
        assert gate(owner) == gate(role) == 1
        run(url, *commands)
        assert gate(owner) == gate(role) == 0
        assert printed(owner) == []
    finally:
        run(postgres, "DROP DATABASE ledger WITH (FORCE)", f"DROP ROLE charity, {ROLE}")


def printed(owner: str) -> list[str]:
    """The lines that roles.sql prints."""
    with closing(psycopg2.connect(owner)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(ROLES)
        return "".join(connection.notices).splitlines()


# --- What commands do -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [("assign", "pi_1Quetzal", TICKET), ("erase", "pi_1Quetzal", "--yes"), ("erase", "--email", "--yes")]
)
def test_a_command_that_sends_donors_data_looks_first(
    arguments: tuple[str, ...], shared_url: str, database_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run with a role that the gate has not checked, it sends nothing to a server that would log it, and says why."""
    run(
        shared_url,
        f"INSERT INTO recording_tickets VALUES ('{TICKET}') ON CONFLICT DO NOTHING",  # noqa: S608 - a constant
        f"ALTER DATABASE {database_name} SET log_statement = 'all'",
    )
    monkeypatch.setenv("DATABASE_URL", shared_url)
    refused = CliRunner().invoke(main, arguments, input=EMAIL)
    assert refused.exit_code == 1
    assert f"ALTER ROLE {USER} IN DATABASE {database_name} SET log_statement = 'none'" in refused.output
    monkeypatch.setenv("ALLOW_LOGGED_STATEMENTS", "true")
    permitted = CliRunner().invoke(main, arguments, input=EMAIL)
    assert re.search("there is no donation pi_1Quetzal|no donation has this e-mail", permitted.output)

"""The ledgers of two charities in one database, one schema each (SPEC 14): each is on its own."""

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import psycopg2
import pytest
from click.testing import CliRunner, Result
from psycopg2 import errors
from psycopg2.extensions import connection as Connection

from daemon.cli.main import main
from daemon.instance.roles import set_rights
from daemon.simulator import scenarios
from health_sidecar.gate import run_once
from sql import load, migrate
from sql.session_lock import SessionLock
from sql.snapshot import snapshot
from tests.support.ledger import NOW, named_scenario, record, rows, scenario
from tests.support.postgres import USER, Server
from tests.support.role_rights import attempting, check_only_rows, is_refused

HELPERS, SHELTER = "helpers", "shelter"
TABLES = "SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r' ORDER BY 1"
# The number of each lock in the schema public, which a previous release uses there too.
LOCKS = {
    "lock_migrations": 5011684201,
    "lock_ledger": 5011684202,
    "lock_audit": 5011684203,
    "lock_balance": 5011684220,
    "count_attempts": 5011684213,
    "delete_attempts": 5011684213,
}


@pytest.fixture(scope="module")
def two_ledgers(postgres: str, administrator: Connection) -> Iterator[str]:
    """The name of a database with the ledgers of two charities, that tests are cloned from."""
    administrator.cursor().execute("CREATE DATABASE template_two_ledgers")
    for schema in (HELPERS, SHELTER):
        migrate.apply(postgres.format(name="template_two_ledgers"), schema=schema)
    yield "template_two_ledgers"
    administrator.cursor().execute("DROP DATABASE template_two_ledgers")


@pytest.fixture
def url(postgres: str, administrator: Connection, two_ledgers: str) -> Iterator[str]:
    """A database with the ledgers of two charities."""
    administrator.cursor().execute(f"CREATE DATABASE two_ledgers TEMPLATE {two_ledgers} STRATEGY FILE_COPY")
    yield postgres.format(name="two_ledgers")
    administrator.cursor().execute("DROP DATABASE two_ledgers WITH (FORCE)")


@pytest.fixture
def command(url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs a command for the charity of a schema."""
    monkeypatch.setenv("DATABASE_URL", url)
    return lambda schema, *words: CliRunner().invoke(main, words, env={"LEDGER_SCHEMA": schema})


def contents(url: str, schema: str) -> dict[str, list[tuple[object, ...]]]:
    """The rows of every table of a ledger."""
    return {
        table: sorted(rows(url, f"SELECT {table}::text FROM {table}", schema=schema))  # noqa: S608
        for (table,) in rows(url, TABLES, schema=schema)
    }


def test_each_ledger_has_its_own_rows(url: str, command: Callable[..., Result]) -> None:
    """What is recorded and erased in one changes no row of the other, and each command reports its own only."""
    generated = scenarios.generate(7, 30, ["story-1"], now=NOW)
    for schema in (HELPERS, SHELTER):
        record(url, scenarios.shuffled(generated, 1), schema=schema)
    before = contents(url, SHELTER)
    record(url, named_scenario().events, schema=HELPERS)
    [(donor,)] = rows(url, "SELECT id FROM stripe_attributions WHERE donor_last_name = 'Smith'", schema=HELPERS)[-1:]
    assert command(HELPERS, "erase", donor, "--yes", "--by", "alex").exit_code == 0
    assert contents(url, SHELTER) == before
    assert [command(schema, "verify").exit_code for schema in (HELPERS, SHELTER)] == [0, 0]
    assert "alex" in command(HELPERS, "audit").output
    assert "alex" not in command(SHELTER, "audit").output
    counts = {schema: len(command(schema, "export", "donations", "--format", "jsonl").output.splitlines())
              for schema in (HELPERS, SHELTER)}  # fmt: skip
    assert counts[HELPERS] == counts[SHELTER] + 1
    assert rows(url, TABLES) == []  # nothing got into the schema public


def test_a_damaged_ledger_is_that_charitys_only(url: str, command: Callable[..., Result]) -> None:
    """The gate and `verify` of the other charity find nothing wrong."""
    for schema in (HELPERS, SHELTER):
        record(url, scenario("paid").events, schema=schema)
    rows(url, "UPDATE ticket_totals SET paid_minor = paid_minor + 1", schema=HELPERS)
    assert [command(schema, "verify").exit_code for schema in (HELPERS, SHELTER)] == [1, 0]
    rows(url, "DROP TABLE stripe_events", schema=HELPERS)
    rows(url, "DROP TABLE payouts", schema=SHELTER)  # not one that the gate needs
    assert [run_once({"DATABASE_URL": url, "LEDGER_SCHEMA": schema}) for schema in (HELPERS, SHELTER)] == [1, 0]


def test_the_gate_names_a_schema_without_a_ledger(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong name in LEDGER_SCHEMA is not taken for the ledger of another charity."""
    assert run_once({"DATABASE_URL": url, "LEDGER_SCHEMA": "helper"}) == 1
    assert "Schema helper out of sync: missing tables: " in capsys.readouterr().out


def test_migrating_one_ledger_leaves_the_other(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later migration is applied in its schema only, while a session reads the same table of the other charity."""
    later = migrate.Migration("9999_later.sql", "ALTER TABLE ledger_entries ADD COLUMN later int", "0" * 64)
    known = (*migrate.discover(), later)
    monkeypatch.setattr(migrate, "discover", lambda: known)
    before = contents(url, SHELTER)
    with closing(psycopg2.connect(url)) as reader:
        reader.cursor().execute(f"SELECT FROM {SHELTER}.ledger_entries")
        assert migrate.apply(url, schema=HELPERS) == [later.name]
    assert contents(url, SHELTER) == before
    assert migrate.drift(url, schema=HELPERS).missing == ()
    assert migrate.drift(url, schema=SHELTER).missing == (later.name,)


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_is_that_of_one_ledger(url: str, lock: str) -> None:
    """Each schema has a key of its own; that of public is the number that a previous release uses."""
    statement = re.sub("--.*", "", load(lock)).split(";")[0]
    keys = {}
    with ExitStack() as stack:
        for schema in ("public", HELPERS, SHELTER):
            cursor = stack.enter_context(closing(psycopg2.connect(url))).cursor()
            cursor.execute("SELECT set_config('search_path', %s, true)", (schema,))
            cursor.execute("SET LOCAL statement_timeout = 30000")
            cursor.execute(statement)
            cursor.execute(
                "SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks "
                "WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
            )
            [(keys[schema],)] = cursor.fetchall()
    assert keys["public"] == LOCKS[lock]
    assert len({*keys.values(), *LOCKS.values()}) == 2 + len(set(LOCKS.values()))


def test_events_of_two_charities_do_not_wait_for_each_other(url: str) -> None:
    """While one charity's writer has its lock, the other's events are recorded, and its own events wait."""
    recorded = threading.Event()

    def record_own() -> None:
        record(url, scenario("paid", 1).events, schema=HELPERS)
        recorded.set()

    writer = threading.Thread(target=record_own)
    with closing(psycopg2.connect(url)) as session:
        session.cursor().execute("SELECT set_config('search_path', %s, true)", (HELPERS,))
        session.cursor().execute(load("lock_ledger"))
        writer.start()
        record(url, scenario("paid").events, schema=SHELTER)
        assert not recorded.is_set()
        session.rollback()
        writer.join(timeout=30)
    assert recorded.is_set()
    seqs = {
        schema: rows(url, "SELECT array_agg(seq) FROM ledger_entries", schema=schema) for schema in (HELPERS, SHELTER)
    }
    assert seqs == {HELPERS: [([1],)], SHELTER: [([1],)]}


async def test_each_charity_has_its_jobs(url: str) -> None:
    """Both charities' processes get the lock of the jobs; a second process of the same charity does not."""
    locks = [
        SessionLock(url, "jobs", application_name="donationd test", schema=schema)
        for schema in (HELPERS, SHELTER, HELPERS)
    ]
    try:
        assert await asyncio.gather(*(lock.acquire() for lock in locks[:2])) == [True, True]
        assert not await locks[2].acquire()
    finally:
        for lock in locks:
            lock.close()


def test_the_search_path_is_this_schema_and_no_other(url: str) -> None:
    """Whatever path the URL or the role asks for, every session has exactly the ledger's schema."""
    elsewhere = f"{url}&options=-csearch_path%3D{SHELTER},public"
    assert rows(elsewhere, "SHOW search_path", schema=HELPERS) == [(HELPERS,)]
    record(elsewhere, scenario("paid").events, schema=HELPERS)
    with snapshot(elsewhere, "donationd test", schema=HELPERS) as moment:
        assert moment.rows("verify_size")[0][-1] > 0
    assert rows(url, "SELECT FROM ledger_entries", schema=SHELTER) == []
    assert migrate.drift(elsewhere, schema="nowhere").missing == tuple(m.name for m in migrate.discover())


# --- Roles


@pytest.fixture
def roles(url: str) -> Iterator[dict[str, str]]:
    """The URL of each charity's role, which is named like its schema."""
    with attempting(url) as owner:
        for schema in (HELPERS, SHELTER):
            set_rights(owner, schema=schema, role=schema)
        yield {schema: url.replace(USER, schema) for schema in (HELPERS, SHELTER)}
        for schema in (HELPERS, SHELTER):
            owner.execute(f"DROP OWNED BY {schema}")
            owner.execute(f"DROP ROLE {schema}")


def test_a_role_reaches_its_own_ledger_only(url: str, roles: dict[str, str]) -> None:
    """Rows of its own schema and nothing else; no table of the other charity can be read or written."""
    check_only_rows(roles[HELPERS], HELPERS)
    with attempting(roles[HELPERS]) as cursor:
        for (table,) in rows(url, TABLES, schema=SHELTER):
            assert is_refused(cursor, f"SELECT FROM {SHELTER}.{table}"), table
            assert is_refused(cursor, f"INSERT INTO {SHELTER}.{table} DEFAULT VALUES"), table
    record(roles[HELPERS], scenario("paid").events, schema=HELPERS)
    with pytest.raises(migrate.MigrationError, match="donationd charities add third"):
        migrate.apply(roles[HELPERS], schema="third")


def test_the_gate_names_a_schema_of_another_charity(roles: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """A role with the LEDGER_SCHEMA of another charity does not read that tables are missing."""
    assert run_once({"DATABASE_URL": roles[HELPERS], "LEDGER_SCHEMA": SHELTER}) == 1
    shown = capsys.readouterr().out
    assert "Schema shelter out of sync: no permission to read: health_check_runs, stripe_events" in shown
    assert "donationd migrate" not in shown


def test_a_superuser_calls_no_function_that_another_role_has_made(url: str) -> None:
    """Who may create functions in public, as the owner of a database may, does not get a superuser's rights by it."""
    trap = "CREATE FUNCTION public.{}({}) RETURNS text LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'called'; END$$"
    with attempting(url) as owner:
        owner.execute(trap.format("format", "text, name"))
        owner.execute(trap.format("format", "text, name, name"))
        set_rights(owner, schema=HELPERS, role=HELPERS)
        owner.execute(f"DROP OWNED BY {HELPERS}")
        owner.execute(f"DROP ROLE {HELPERS}")


def test_roles_of_a_schema_that_does_not_exist_are_refused(url: str) -> None:
    """The error says how to make the schema first."""
    with attempting(url) as owner, pytest.raises(errors.RaiseException, match="CREATE SCHEMA nowhere AUTHORIZATION"):
        set_rights(owner, schema="nowhere", role="nowhere")


# --- Backups


def test_one_charity_is_dumped_and_restored(
    url: str, server: Server, database_url: str, command: Callable[..., Result]
) -> None:
    """pg_dump --schema takes one ledger and brings it into another database, beside what is there."""
    record(url, scenarios.shuffled(scenarios.generate(9, 20, ["story-1"], now=NOW), 1), schema=HELPERS)
    beside = contents(database_url, "public")
    with closing(psycopg2.connect(database_url)) as target, target, target.cursor() as cursor:
        dump = server.dump(url, "--schema", HELPERS, "--inserts", "--no-owner")
        cursor.execute(re.sub(r"^\\.*", "", dump, flags=re.MULTILINE))  # commands of psql
    assert contents(database_url, HELPERS) == contents(url, HELPERS)
    assert contents(database_url, "public") == beside
    done = CliRunner().invoke(main, ["verify"], env={"DATABASE_URL": database_url, "LEDGER_SCHEMA": HELPERS})
    assert done.exit_code == 0

"""The schema's history: a database that an earlier version filled keeps every donation."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from io import StringIO

import psycopg2
import pytest
from click.testing import CliRunner

from daemon.cli.main import main
from daemon.simulator import scenarios
from sql import load, migrate
from sql.connection import Row
from tests.support.instance import eventually
from tests.support.ledger import NOW, record, rows, scenario

FIRST = "0001_ledger.sql"
TABLES = ("recording_tickets", "stripe_events", "stripe_attributions", "stripe_objects", "ticket_totals")


@pytest.fixture
def first_schema(empty_url: str) -> str:
    """A database as the first version's `donationd migrate` left it."""
    [first] = [m for m in migrate.discover() if m.name == FIRST]
    with closing(psycopg2.connect(empty_url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(migrate.HISTORY)
        cursor.execute(first.sql)
        cursor.execute("INSERT INTO schema_migrations VALUES (%s, %s)", (first.name, first.sha256))
    return empty_url


def columns_of(url: str) -> dict[str, str]:
    """Each table's columns, as a list in SQL; without those that only `donationd rebuild` or the next write fill."""
    query = """
        SELECT table_name, string_agg(column_name, ', ' ORDER BY ordinal_position)
        FROM information_schema.columns
        WHERE table_schema = 'public'
              AND column_name NOT IN ('rules_version', 'derived_version', 'entries_digest')
        GROUP BY 1
    """
    columns: dict[str, str] = dict(rows(url, query))
    return {table: columns[table] for table in TABLES}


def copy_tables(source: str, target: str, columns: dict[str, str]) -> None:
    """What the first version would have stored: it kept no totals of what no ticket claims."""
    with closing(psycopg2.connect(source)) as old, closing(psycopg2.connect(target)) as new, new:
        for table, names in columns.items():
            with old.cursor() as reader, new.cursor() as writer:
                held = StringIO()
                where = "WHERE ticket_id <> '' AND currency <> ''" if table == "ticket_totals" else ""
                reader.copy_expert(f"COPY (SELECT {names} FROM {table} {where}) TO STDOUT", held)  # noqa: S608
                held.seek(0)
                writer.copy_expert(f"COPY {table} ({names}) FROM STDIN", held)


def contents(url: str, columns: dict[str, str]) -> dict[str, list[Row]]:
    """Every table's rows, in a fixed order."""
    return {table: rows(url, f"SELECT {names} FROM {table} ORDER BY 1, 2") for table, names in columns.items()}  # noqa: S608


def test_a_filled_first_schema_keeps_every_donation(
    first_schema: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After migrating, all rows are those a new database would hold, totals included, and verify agrees."""
    generated = scenarios.generate(5, 60, ["story-1", "story-2"], now=NOW)
    # The first version read no invoices, and had no table for failed charges.
    alike = [found for found in generated if found.kind not in {"monthly", "failed_then_paid"}]
    record(database_url, scenarios.shuffled(alike, 1))
    first, newest = columns_of(first_schema), columns_of(database_url)
    copy_tables(database_url, first_schema, first)
    before = contents(first_schema, first)
    assert migrate.apply(first_schema) == [m.name for m in migrate.discover() if m.name != FIRST]
    assert contents(first_schema, newest) == contents(database_url, newest)
    after = contents(first_schema, first)
    assert [before[table] == after[table] for table in TABLES] == [True, True, True, True, False]
    monkeypatch.setenv("DATABASE_URL", first_schema)
    assert CliRunner().invoke(main, ["verify"]).exit_code == 0


TICKETS = "INSERT INTO recording_tickets (id) VALUES (%s)"


def test_tickets_of_the_former_rule_are_kept(first_schema: str) -> None:
    """A database with dots and long numbers in its ticket ids migrates and keeps them; new ones are refused."""
    former = ["2025.roof", "1234567890"]
    run(first_schema, TICKETS, former)
    migrate.apply(first_schema)
    assert rows(first_schema, "SELECT id FROM recording_tickets ORDER BY id DESC") == [(each,) for each in former]
    for refused in ("story.1", "123456789", "x" * 65, "a b", "a\n", ""):
        with pytest.raises(psycopg2.errors.CheckViolation):
            run(first_schema, TICKETS, [refused])
    run(first_schema, TICKETS, ["story-1", "12345678", "1234-56789", "_", "x" * 64])


def run(url: str, statement: str, values: list[str]) -> None:
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.executemany(statement, [(value,) for value in values])


# --- Locks that others hold ------------------------------------------------------------------------------------------


ALTER = migrate.Migration("9999_later.sql", "ALTER TABLE ledger_entries ADD COLUMN later int", "0" * 64)


@pytest.fixture
def reader(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[psycopg2.extensions.connection]:
    """A session in a transaction that has read the journal, while a migration is to alter the journal."""
    known = (*migrate.discover(), ALTER)
    monkeypatch.setattr(migrate, "discover", lambda: known)
    with closing(psycopg2.connect(database_url)) as reader:
        reader.cursor().execute("SELECT count(*) FROM ledger_entries")
        yield reader


def test_writers_do_not_queue_behind_a_migration_that_waits_for_a_reader(
    database_url: str, reader: psycopg2.extensions.connection
) -> None:
    """The migration waits for less than a second at a time, so that each event is recorded, however long the reader
    stays; then the migration is applied."""
    assert migrate.LOCK_TIMEOUT_MS < 1000
    lines: list[str] = []
    with ThreadPoolExecutor() as threads:
        migrating = threads.submit(migrate.apply, database_url, lines.append)
        eventually(lambda: bool(lines), "the migration waits")
        for number in range(6):
            record(database_url, scenario("paid", number).events)  # or its statement times out
            time.sleep(0.2)
        assert not migrating.done()
        reader.rollback()
        assert migrating.result(timeout=60) == [ALTER.name]
    assert lines == [
        "waiting for a lock that another session holds; others are not blocked meanwhile",
        "applied 9999_later.sql",
    ]
    assert rows(database_url, "SELECT count(*) FILTER (WHERE later IS NULL) >= 6 FROM ledger_entries") == [(True,)]


def test_a_migration_that_waits_too_long_changes_nothing(
    database_url: str, reader: psycopg2.extensions.connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what to do, and so it does where another migration has the lock."""
    monkeypatch.setattr(migrate, "WAIT_S", 0.0)
    with pytest.raises(migrate.MigrationError, match="End long queries"):
        migrate.apply(database_url)
    assert rows(database_url, "SELECT count(*) FROM schema_migrations WHERE name = '9999_later.sql'") == [(0,)]
    reader.rollback()
    reader.cursor().execute(load("lock_migrations"))
    with pytest.raises(migrate.MigrationError, match="another migration is running"):
        migrate.apply(database_url)
    reader.rollback()
    assert migrate.apply(database_url) == [ALTER.name]

"""The schema's history: a database that an earlier version filled keeps every donation."""

from collections.abc import Callable, Iterator
from contextlib import closing
from io import StringIO

import psycopg2
import pytest
from click.testing import CliRunner

from daemon.cli import main
from daemon.simulator import payment_lives
from sql import migrate
from sql.database import Row
from tests.test_operator import NOW, record, rows

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


def copy_tables(source: str, target: str) -> None:
    """What the first version would have stored: it kept no totals of what no ticket claims."""
    with closing(psycopg2.connect(source)) as old, closing(psycopg2.connect(target)) as new, new:
        for table in TABLES:
            with old.cursor() as reader, new.cursor() as writer:
                held = StringIO()
                where = "WHERE ticket_id <> '' AND currency <> ''" if table == "ticket_totals" else ""
                reader.copy_expert(f"COPY (SELECT * FROM {table} {where}) TO STDOUT", held)  # noqa: S608
                held.seek(0)
                writer.copy_expert(f"COPY {table} FROM STDIN", held)


@pytest.fixture
def contents() -> Iterator[Callable[[str], dict[str, list[Row]]]]:
    """Every table's rows, in a fixed order."""
    yield lambda url: {table: rows(url, f"SELECT * FROM {table} ORDER BY 1, 2") for table in TABLES}  # noqa: S608


def test_a_filled_first_schema_keeps_every_donation(
    first_schema: str,
    database_url: str,
    contents: Callable[[str], dict[str, list[Row]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After migrating, all rows are those a new database would hold, totals included, and verify agrees."""
    record(database_url, payment_lives.shuffled(payment_lives.lives(5, 60, ["story-1", "story-2"], now=NOW), 1))
    copy_tables(database_url, first_schema)
    before = contents(first_schema)
    assert migrate.apply(first_schema) == [m.name for m in migrate.discover() if m.name != FIRST]
    after = contents(first_schema)
    assert after == contents(database_url)
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

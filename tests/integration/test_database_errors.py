"""Each error of PostgreSQL and of the driver is reported as what it is."""

import socket
from collections.abc import Awaitable

import psycopg2
import pytest
from psycopg2 import errorcodes

from sql import errors
from sql.database import Database
from sql.errors import DatabaseUnavailable, StatementRejected, classify

PID = "SELECT pg_backend_pid()"


# How each class of PostgreSQL's errors is reported: DatabaseUnavailable with its kind, or StatementRejected for the
# values or not.
VALUES, SCHEMA = True, False
RESOURCES = "out of resources"
REPORTED = {
    **dict.fromkeys(("08000", "08006", "08P01", "25P03", "57000", "57P01", "57P02", "57P05"), "connection lost"),
    "25006": "read only",
    "25P04": "timeout",
    **dict.fromkeys(("28000", "28P01"), "authentication failed"),
    **dict.fromkeys(("3D000", "57P04"), "no such database or role"),
    **dict.fromkeys(("40000", "40001", "40P01", "72000"), "conflict"),
    **dict.fromkeys(("53000", "53200", "53400"), RESOURCES),
    "53100": "disk full",
    "53300": "too many connections",
    **dict.fromkeys(("55006", "55P03"), "lock held"),
    "57014": "timeout",
    "57P03": "database starting up",
    **dict.fromkeys(("58000", "58030", "58P01"), "system error"),
    "XX000": "internal error",
    **dict.fromkeys(("XX001", "XX002"), "data corrupted"),
    **dict.fromkeys(("21000", "22001", "22003", "22P02", "22P05", "23502", "23505", "23514", "23P01"), VALUES),
    **dict.fromkeys(("44000", "54000", "54001", "P0001"), VALUES),
    **dict.fromkeys(("03000", "09000", "0A000", "0B000", "0F000", "0L000", "0P000", "0Z000", "10608", "20000"), SCHEMA),
    **dict.fromkeys(
        ("24000", "25000", "25P01", "25P02", "26000", "27000", "2B000", "2D000", "2F000", "34000", "38000"), SCHEMA
    ),
    **dict.fromkeys(("39000", "3B000", "3F000", "42501", "42601", "42P01", "42P05", "42804", "55000"), SCHEMA),
    **dict.fromkeys(("55P02", "F0000", "HV000", "ZZ999"), SCHEMA),
}


def opened(url: str, statement_timeout_s: float) -> Database:
    """Another database than the fixture."""
    return Database(
        url,
        pool_size=1,
        statement_timeout_s=statement_timeout_s,
        connect_timeout_s=2,
        application_name="donationd test",
    )


async def reported(work: Awaitable[object]) -> str | bool:
    """The kind of an outage; of a refusal whether it is for its values."""
    try:
        await work
    except DatabaseUnavailable as down:
        return down.kind
    except StatementRejected as refusal:
        return refusal.for_its_values
    raise AssertionError("nothing was reported")


async def test_each_class_of_errors_is_reported_as_what_it_is(database: Database) -> None:
    """Only what a later attempt can cure is an outage or a conflict, with and without a prepared statement."""
    for prepare in (None, "PREPARE ask AS SELECT 1"):
        found = {
            state: await reported(
                database.fetch(f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{state}'; END $$", prepare=prepare)
            )
            for state in REPORTED
        }
        lost = {} if prepare is None else dict.fromkeys(("26000", "42P05"), "prepared statement lost")
        assert found == REPORTED | lost
    codes = {code for code in vars(errorcodes).values() if isinstance(code, str) and len(code) == 5}
    assert {code[:2] for code in codes} - {state[:2] for state in REPORTED} == {"00", "01", "02"}  # no errors


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("SELECT DISTINCT 1 FOR UPDATE", SCHEMA),  # 0A000, like a plan that is out of date
        ("SELECT repeat('[', 1000000)::json", VALUES),  # 54001
        ("SELECT lastval()", SCHEMA),  # 55000
        (
            "SET work_mem = 64; SET temp_file_limit = 1; SELECT count(*) FROM generate_series(1, 100000)",
            RESOURCES,
        ),  # 53400
        ("SET transaction_read_only = on; CREATE TABLE never (n int)", "read only"),
        ("SELECT 1/0", VALUES),
        ("SELECT nowhere()", SCHEMA),
    ],
)
async def test_real_statements_are_reported_as_what_they_are(
    statement: str, expected: str | bool, database: Database
) -> None:
    """The server raises these by itself; each is prepared for, as the writer's statement is."""
    assert await reported(database.fetch(statement, prepare="PREPARE ask AS SELECT 1")) == expected


async def test_an_index_entry_too_long_is_its_value_s_fault(database: Database) -> None:
    """54000: other rows can still be written, so the one that is too long has to be found among them."""
    await database.fetch("DROP TABLE IF EXISTS long; CREATE TABLE long (name text PRIMARY KEY)")
    text = "(SELECT string_agg(sha256(n::text::bytea)::text, '') FROM generate_series(1, 500) AS n)"
    assert await reported(database.fetch(f"INSERT INTO long SELECT {text}")) is VALUES


async def test_waiting_for_a_lock_has_a_kind_of_its_own(database: Database, database_url: str) -> None:
    """It ends before the statement's time does, so that the server can say what it was."""
    await database.fetch("SELECT pg_advisory_lock(1)")
    other = opened(database_url, statement_timeout_s=2)
    assert await reported(other.fetch("SELECT pg_advisory_lock(1)")) == "lock held"
    await other.close()


def test_only_known_kinds_have_a_remedy() -> None:
    """A phrase that is changed takes its remedy along."""
    kinds = {*errors.KIND_BY_SQLSTATE.values(), *(kind for _, kind in errors.KIND_BY_TEXT)}
    kinds |= {errors.PREPARATION_LOST, errors.NOT_REPLICATED, errors.SESSION_SHARED}
    assert errors.REMEDIES.keys() <= kinds


async def test_what_the_schema_lacks_is_named(database: Database) -> None:
    """The name of a missing table or column is reported: it is part of the schema, and not a value."""
    for sql, words in (("TABLE lost", 'relation "lost" does not exist'), ("SELECT lost", 'column "lost" does not')):
        with pytest.raises(StatementRejected, match=words):
            await database.fetch(sql)


async def test_a_refusal_keeps_the_connection_and_names_no_value(database: Database) -> None:
    """A statement that is refused is the statement's fault; only a broken transaction costs the connection."""
    [(pid,)] = await database.fetch(PID)
    with pytest.raises(StatementRejected) as caught:
        await database.fetch("SELECT %s::int", ("secret",))
    assert caught.value.for_its_values
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert await database.fetch(PID) == [(pid,)]
    with pytest.raises(StatementRejected, match="division by zero"):
        await database.fetch("BEGIN; SELECT 1/0; COMMIT")
    assert await database.fetch(PID) != [(pid,)]


# --- what is said about it


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TimeoutError(), "timeout"),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"), "unknown host"),
        (psycopg2.OperationalError("connection to server at … failed: Connection refused"), "connection refused"),
        (psycopg2.OperationalError("FATAL:  the database system is starting up"), "database starting up"),
        (psycopg2.OperationalError("FATAL:  sorry, too many clients already"), "too many connections"),
        (psycopg2.OperationalError("server closed the connection unexpectedly"), "connection lost"),
        (psycopg2.OperationalError('invalid port number: "x"'), "invalid DATABASE_URL"),
        (psycopg2.OperationalError("something new"), "other"),
    ],
)
def test_kinds_are_classes(error: Exception, expected: str) -> None:
    """Every failure is one of a few phrases, which name nothing."""
    assert classify(error) == expected


@pytest.mark.parametrize(
    "url",
    [
        "postgresql:///db?host=a,b,c&port=1,2",
        "postgresql://[::1/db",
        "postgresql://a/db?nonsense=1",
        "postgresql://127.0.0.1:x/db",
    ],
)
async def test_a_url_that_makes_no_sense_says_so(url: str) -> None:
    """It is an outage of its own kind, at the first use."""
    database = Database(url, pool_size=1, statement_timeout_s=1, connect_timeout_s=1, application_name="donationd test")
    assert await reported(database.fetch("SELECT 1")) == "invalid DATABASE_URL"
    await database.close()

"""The startup gate: every check, every way to fail, and what it says and records."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import structlog
from structlog.testing import LogCapture

from daemon.api.config import Config as ApiConfig
from daemon.runtime.config import ConfigError
from health_sidecar.config import Config
from health_sidecar.gate import GateClosed, Verdict, check_url, run_gate, run_once
from health_sidecar.probe import REQUIRED_TABLES, Probe
from sql import load
from sql.errors import DatabaseUnavailable, StatementRejected
from sql.migrate import discover
from tests.support.fake_database import FakeDatabase

URL = "postgresql://donationd:hunter2@127.0.0.1:5432/ledger"


@pytest.fixture
def logged() -> LogCapture:
    """Every line the gate logs."""
    return LogCapture()


async def gate(
    database: FakeDatabase, logged: LogCapture, *, url: str = URL, attempts: int = 3
) -> tuple[Verdict, list[float]]:
    """One gate run; returns its verdict and the pauses it made, in seconds."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    log = structlog.wrap_logger(None, processors=[logged], wrapper_class=structlog.make_filtering_bound_logger(0))
    verdict = await run_gate(
        url,
        Probe(lambda: database, 1.0),
        attempts=attempts,
        retry_delay_s=2.0,
        allow_logged_statements=False,
        sleep=sleep,
        log=log,
    )
    return verdict, pauses


def lines(logged: LogCapture) -> list[str]:
    """The texts of what was logged."""
    return [str(entry["event"]) for entry in logged.entries]


async def test_passing_gate_prints_the_original_lines(logged: LogCapture) -> None:
    """A healthy database gives the original's output, line for line."""
    verdict, pauses = await gate(FakeDatabase(), logged)
    ruler = "=" * 60
    assert lines(logged) == [
        ruler,
        "🔒 DATABASE STARTUP GATE",
        ruler,
        "[DB Startup] ✅ DATABASE_URL format valid",
        "[DB Startup] Attempting connection (attempt 1/3)...",
        "[DB Startup] ✅ Connection successful",
        "[DB Startup] Verifying schema integrity...",
        "[DB Startup] ✅ Schema integrity verified",
        ruler,
        "✅ DATABASE STARTUP GATE: PASSED",
        ruler,
    ]
    assert (verdict.passed, verdict.outcome, pauses) == (True, "passed", [])


@pytest.mark.parametrize(
    "url", ["", "mysql://u:hunter2@h/d", "postgres://u:hunter2@h/d", "postgresql://u:hunter2@h:%zz/d"]
)
async def test_url_that_is_none_is_refused_without_repeating_it(url: str, logged: LogCapture) -> None:
    """Anything but a postgresql:// URL fails at once, no connection is tried, and no part of it is logged."""
    verdict, pauses = await gate(FakeDatabase(down=["other"] * 9), logged, url=url)
    assert not verdict.passed
    assert "❌ DATABASE_URL validation failed" in lines(logged)
    assert lines(logged)[-1] == "🚨 DATABASE STARTUP GATE FAILED"
    assert not any("attempt" in line for line in lines(logged))
    assert "hunter2" not in repr(logged.entries) + repr(verdict)
    assert pauses == []


def test_several_hosts_are_a_valid_url() -> None:
    """What libpq understands is accepted as it is."""
    check_url("postgresql://u:p@h1:5432,h2:5433/d?target_session_attrs=read-write")
    for url in ("host=127.0.0.1 dbname=d", "postgresql://u:p@h1,h2,h3/d?port=1,2"):
        with pytest.raises(GateClosed):
            check_url(url)


async def test_connection_is_retried_with_doubling_delay(logged: LogCapture) -> None:
    """Two failures cost 2 s and 4 s; the third attempt passes the gate."""
    verdict, pauses = await gate(FakeDatabase(down=["connection refused", "database starting up"]), logged)
    assert verdict.passed
    assert pauses == [2.0, 4.0]
    assert "[DB Startup] Attempting connection (attempt 3/3)..." in lines(logged)


async def test_used_up_attempts_close_the_gate(logged: LogCapture) -> None:
    """After the last attempt there is no more waiting; the verdict names a class of error only."""
    verdict, pauses = await gate(FakeDatabase(down=["timeout"] * 3), logged)
    assert verdict == Verdict(passed=False, detail="timeout", error="timeout")
    assert pauses == [2.0, 4.0]
    assert lines(logged)[-2:] == ["❌ Database connection failed", "🚨 DATABASE STARTUP GATE FAILED"]


@pytest.mark.parametrize("table", REQUIRED_TABLES)
async def test_missing_table_fails_and_names_the_remedy(table: str, logged: LogCapture) -> None:
    """Each table is needed, and the message says which is missing and what to do: migrating makes no table twice."""
    for applied, remedy in ((FakeDatabase().applied, "Restore them from a backup"), ({}, "Run: donationd migrate")):
        database = FakeDatabase(applied=applied)
        del database.tables[table]
        verdict, _ = await gate(database, logged)
        assert not verdict.passed
        assert f"missing tables: {table}. {remedy}" in verdict.detail
    assert "❌ Schema integrity check failed" in lines(logged)


async def test_unreadable_table_fails_and_says_so(logged: LogCapture) -> None:
    """A role without rights is distinguished from a table that does not exist."""
    database = FakeDatabase()
    database.tables["stripe_events"] = False
    verdict, _ = await gate(database, logged)
    assert "no permission to read: stripe_events" in verdict.detail
    assert "missing" not in verdict.detail


async def test_empty_database_names_tables_and_migrations(logged: LogCapture) -> None:
    """A database that was never migrated fails with everything that is missing, at once."""
    verdict, _ = await gate(FakeDatabase(tables={}, applied={}), logged)
    assert all(name in verdict.detail for name in [*REQUIRED_TABLES, *(m.name for m in discover())])


async def test_missing_migration_fails(logged: LogCapture) -> None:
    """Tables alone are not enough: every migration of this version has to be applied."""
    verdict, _ = await gate(FakeDatabase(applied={}), logged)
    assert "migrations not applied" in verdict.detail
    assert "donationd migrate" in verdict.detail


async def test_edited_migration_fails(logged: LogCapture) -> None:
    """A migration whose text changed after it was applied is found by its checksum."""
    name = discover()[0].name
    database = FakeDatabase()
    database.applied[name] = "0" * 64
    verdict, _ = await gate(database, logged)
    assert f"changed after they were applied: {name}" in verdict.detail
    assert "donationd migrate --status" in verdict.detail


async def test_unknown_newer_migration_only_warns(logged: LogCapture) -> None:
    """Migrating before an upgrade, or rolling back after one, does not stop the service."""
    database = FakeDatabase()
    database.applied["9999_future.sql"] = "f" * 64
    verdict, _ = await gate(database, logged)
    assert verdict.passed
    [warning] = [entry for entry in logged.entries if entry["log_level"] == "warning"]
    assert warning["migrations"] == "9999_future.sql"


async def test_database_lost_during_the_schema_check_fails(logged: LogCapture) -> None:
    """An outage between the ping and the schema check is a failed gate, not a crash."""
    database = FakeDatabase()

    class LostAfterPing(FakeDatabase):
        async def fetch(self, sql: str, params: Mapping[str, object] | Sequence[object] = ()) -> list[tuple[Any, ...]]:
            if sql != load("ping"):
                raise DatabaseUnavailable("connection lost")
            return await database.fetch(sql, params)

    verdict, _ = await gate(LostAfterPing(), logged)
    assert (verdict.passed, verdict.error) == (False, "connection lost")
    assert "❌ Schema integrity check failed" in lines(logged)


@pytest.mark.parametrize("name", ["log_min_error_statement", "log_statement"])
async def test_a_setting_that_cannot_be_read_counts_as_dangerous(name: str, logged: LogCapture) -> None:
    """Whether statements are logged is then unknown; the message says how the role can be permitted to read it."""
    database = FakeDatabase()
    del database.settings[name]
    verdict, _ = await gate(database, logged)
    assert (verdict.passed, verdict.error, verdict.reached) == (False, "unsafe server settings", True)
    [line] = [line for line in lines(logged) if name in line]
    assert "cannot be read" in line
    assert "GRANT pg_read_all_settings" in line


async def test_refused_schema_check_hides_the_driver_text(logged: LogCapture) -> None:
    """A statement PostgreSQL refuses fails the gate; the driver's own words are not repeated."""
    verdict, _ = await gate(
        FakeDatabase(error=StatementRejected(psycopg2.ProgrammingError("secret host 10.0.0.9"))), logged
    )
    assert not verdict.passed
    assert "10.0.0.9" not in repr(verdict) + repr(logged.entries)


def test_configuration_reports_every_mistake_at_once() -> None:
    """All bad variables are named together, and no value of any of them is repeated."""
    with pytest.raises(ConfigError) as caught:
        Config.from_environ({"METRICS_PORT": "hunter2", "GATE_ATTEMPTS": "0", "LOG_FORMAT": "hunter2"})
    text = str(caught.value)
    assert all(name in text for name in ("DATABASE_URL: not set", "METRICS_PORT", "GATE_ATTEMPTS", "LOG_FORMAT"))
    assert "hunter2" not in text + repr(caught.value.__cause__) + repr(caught.value.__context__)


def test_bytes_that_are_no_text_are_a_mistake_like_any_other() -> None:
    """A variable that is no UTF-8 is named, for no process can receive it; one of other programs' does not matter."""
    broken = os.fsdecode(b"hunter2\xff")
    given = {
        "DATABASE_URL": broken,
        "STRIPE_WEBHOOK_SECRET": broken,
        "DONOR_EMAIL_HASH_KEY": broken,
        "LESSOPEN": broken,
    }
    with pytest.raises(ConfigError) as caught:
        ApiConfig.from_environ(given)
    assert sorted(caught.value.problems) == [f"{name}: is not UTF-8" for name in sorted(given) if name != "LESSOPEN"]


def test_configuration_has_the_documented_defaults() -> None:
    """With only DATABASE_URL set, an empty variable counting as unset, the defaults hold; the URL stays out of repr."""
    config = Config.from_environ({"DATABASE_URL": URL, "METRICS_PORT": ""})
    shown = config.model_dump(exclude={"database_url", "metrics_dir"})
    assert shown == {
        "metrics_host": "127.0.0.1",
        "metrics_port": 9464,
        "readiness_socket": Path("run/readiness.sock"),
        "ledger_schema": "public",
        "allow_logged_statements": False,
        "operator_log": None,
        "gate_attempts": 3,
        "gate_retry_delay_ms": 2000,
        "watchdog_interval_ms": 30000,
        "watchdog_max_failures": 3,
        "watchdog_retry_ms": 200,
        "reconnect_attempts": 5,
        "reconnect_delay_ms": 5000,
        "db_ping_timeout_ms": 5000,
        "log_format": "text",
        "log_level": "INFO",
    }
    assert "hunter2" not in repr(config)


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({}, "DATABASE_URL: not set"),
        ({"DATABASE_URL": "mysql://x"}, "❌ DATABASE_URL validation failed"),
    ],
)
def test_command_exits_1_with_a_clear_message(
    environ: dict[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`donationd gate` ends with status 1 and says why, on lines without timestamps."""
    assert run_once(environ) == 1
    printed = capsys.readouterr().out
    assert said in printed
    assert "🚨 DATABASE STARTUP GATE FAILED" in printed.splitlines()


def rows(url: str, sql: str) -> list[tuple[Any, ...]]:
    """What PostgreSQL answers to a statement of the test's own."""
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall()) if cursor.description else []


def test_real_database_passes_and_keeps_the_run(database_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A migrated database passes the gate, and the run is a row of its own."""
    assert run_once({"DATABASE_URL": database_url}) == 0
    assert "✅ DATABASE STARTUP GATE: PASSED" in capsys.readouterr().out
    [row] = rows(database_url, "SELECT kind, ok, state FROM health_check_runs")
    assert row == ("gate", True, "passed")


def test_real_empty_database_fails_and_names_the_remedy(empty_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A database without tables fails with the four names and the command that makes them."""
    assert run_once({"DATABASE_URL": empty_url}) == 1
    printed = capsys.readouterr().out
    assert all(name in printed for name in REQUIRED_TABLES)
    assert "Run: donationd migrate" in printed


def test_real_failed_run_is_kept_where_the_table_exists(database_url: str) -> None:
    """A schema that is almost right fails the gate and the failure is on record."""
    rows(database_url, "ALTER TABLE recording_tickets RENAME TO elsewhere")
    assert run_once({"DATABASE_URL": database_url}) == 1
    [row] = rows(database_url, "SELECT ok, state, detail FROM health_check_runs")
    assert row == (False, "failed", "Schema out of sync: missing tables: recording_tickets. Restore them from a backup")


async def test_hanging_database_counts_as_a_timeout() -> None:
    """A server that accepts and never answers is a failed ping when its time is up."""

    class Hanging(FakeDatabase):
        async def fetch(self, sql: str, params: Mapping[str, object] | Sequence[object] = ()) -> list[tuple[Any, ...]]:
            await asyncio.Event().wait()
            return []

    with pytest.raises(DatabaseUnavailable) as caught:
        await Probe(Hanging, 0.01).ping()
    assert caught.value.kind == "timeout"


async def test_a_new_connection_is_tried_beside_the_present_one() -> None:
    """It asks over a connection of its own and gives it up; no room for one more is no failure, any other is."""
    for kind, fails in ((None, False), ("too many connections", False), ("authentication failed", True)):
        made = [FakeDatabase(), FakeDatabase(down=[kind] if kind else [])]
        probe = Probe(iter(made).__next__, 1.0)
        await probe.ping()
        with pytest.raises(DatabaseUnavailable) if fails else nullcontext():
            await probe.ping_new_connection()
        assert [database.closed for database in made] == [0, 1]


def test_an_upgrade_of_the_files_does_not_touch_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The migrations that a process needs are those of its own version, whatever is installed over it meanwhile."""
    probe = Probe(FakeDatabase, 1.0)
    monkeypatch.setattr("health_sidecar.probe.discover", lambda: pytest.fail("read again"))
    assert asyncio.run(probe.schema()).problems() == []


async def test_reconnect_uses_a_new_connection() -> None:
    """A reconnect closes what there was and asks over something fresh."""
    made: list[FakeDatabase] = []

    def make() -> FakeDatabase:
        made.append(FakeDatabase())
        return made[-1]

    probe = Probe(make, 1.0)
    await probe.ping()
    await probe.reconnect()
    assert [database.closed for database in made] == [1, 0]

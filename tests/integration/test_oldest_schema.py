"""This release on the schema of the release before it: a migration that only the next release needs can wait (SPEC 14).

The tests of reads and writes in the modules of `tests/support/oldest_schema.py` run on that schema as well.
"""

import dataclasses
import json
from typing import Any
from unittest.mock import Mock

import pytest
import structlog
from click.testing import CliRunner, Result
from prometheus_client import generate_latest

from daemon.cli.main import main
from daemon.instance import environment
from daemon.instance import reload as reloading
from health_sidecar.gate import OUT_OF_SYNC
from health_sidecar.metrics import Metrics, build_registry
from health_sidecar.probe import Probe
from health_sidecar.sidecar import Sidecar
from sql import migrate
from sql.database import Database
from sql.errors import DatabaseUnavailable
from tests.support import oldest_schema
from tests.support.ledger import rows
from tests.support.metrics_page import samples
from tests.support.process import ROOT

LATER = migrate.Migration("9999_later.sql", "CREATE TABLE later (id int PRIMARY KEY)", "0" * 64)
WARNING = "migrations not applied that only the next release needs: 9999_later.sql. Run: donationd migrate"


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> tuple[migrate.Migration, ...]:
    """The migrations that this release needs, and one that can wait."""
    known = (*(each for each in migrate.discover() if migrate.number(each.name) <= migrate.NEEDED), LATER)
    monkeypatch.setattr(migrate, "discover", lambda: known)
    monkeypatch.setattr("health_sidecar.probe.discover", lambda: known)
    return known


def donationd(*words: str) -> Result:
    """Runs a command."""
    return CliRunner().invoke(main, words)


def test_modules_of_reads_and_writes_begin_with_it(database_url: str) -> None:
    """Each of them exists. Their databases have the migrations that this release needs, and no other."""
    assert {name for name in oldest_schema.MODULES if not (ROOT / "tests/integration" / name).is_file()} == set()
    applied = [migrate.number(name) for (name,) in rows(database_url, "SELECT name FROM schema_migrations")]
    assert max(applied) == migrate.NEEDED
    assert migrate.drift(database_url).required == ()


def test_gate_and_migrate_warn_of_a_migration_that_can_wait(
    known: tuple[migrate.Migration, ...], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate passes and keeps the warning in its history, `migrate --status` ends with 1; migrating ends both."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    gate, status = donationd("gate"), donationd("migrate", "--status")
    assert (gate.exit_code, status.exit_code) == (0, 1)
    assert f"Schema not up to date: {WARNING}" in gate.output
    assert rows(database_url, "SELECT ok, detail FROM health_check_runs") == [(True, WARNING)]
    assert status.output == f"missing: 9999_later.sql\n{WARNING}\n"
    as_json = json.loads(donationd("migrate", "--status", "--json").output)
    assert (as_json["upToDate"], as_json["missing"], as_json["required"]) == (False, ["9999_later.sql"], [])
    assert donationd("migrate").exit_code == 0
    assert "not up to date" not in donationd("gate").output
    assert donationd("migrate", "--status").exit_code == 0


def test_a_reload_goes_on_without_it(
    known: tuple[migrate.Migration, ...], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It warns. Without one that this release needs it restarts nothing."""
    reloads: list[object] = []
    monkeypatch.setattr(environment, "running_environ", lambda: {"DATABASE_URL": database_url})
    monkeypatch.setattr(reloading, "reload", lambda *given: reloads.append(given))
    done = donationd("reload")
    assert (done.exit_code, done.output, len(reloads)) == (0, f"{WARNING}\n", 1)
    rows(database_url, f"DELETE FROM schema_migrations WHERE name = '{known[-2].name}'")  # noqa: S608 - a constant
    done = donationd("reload")
    assert (done.exit_code, len(reloads)) == (1, 1)
    assert f"migrations not applied: {known[-2].name}, 9999_later.sql. Run `donationd migrate` first" in done.output


async def test_the_watchdog_goes_on_without_it(known: tuple[migrate.Migration, ...], database: Database) -> None:
    """It warns once, and counts it in a metric and in `status`. Without one that this release needs it is not ready."""
    metrics = Metrics()
    used = {"metrics": metrics, "probe": Probe(lambda: database, 10.0)}
    parts: dict[str, Any] = {field.name: Mock() for field in dataclasses.fields(Sidecar) if _is_required(field)} | used
    sidecar = Sidecar(**parts)
    with structlog.testing.capture_logs() as logged:
        await sidecar.check_database()
        await sidecar.check_database()
    assert [(line["log_level"], line["reason"]) for line in logged] == [("warning", WARNING)]
    assert samples(generate_latest(build_registry(metrics, None)))["schema_migrations_missing", ()] == 1
    assert metrics.waiting == {"schema_migrations_missing": 1}
    await database.fetch("DELETE FROM schema_migrations WHERE name = %(name)s", {"name": known[-2].name})
    with pytest.raises(DatabaseUnavailable) as caught:
        await sidecar.check_database()
    assert caught.value.kind == OUT_OF_SYNC
    assert metrics.waiting == {"schema_migrations_missing": 2}


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is field.default_factory is dataclasses.MISSING

"""Upgrades (SPEC 14): releases before this one on today's schema, and this one on a schema that it cannot use.

`test_oldest_schema` has this release on the schema of the release before.
"""

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner

from daemon.cli.main import main
from daemon.simulator import scenarios
from tests.support.guard import base_environ
from tests.support.ledger import NOW, record, rows
from tests.support.previous_release import PREVIOUS, PUBLISHED, unpack_or_skip
from tests.support.process import ROOT

MIGRATIONS = "sql/migrations"
# Of writes and reads. Its whole suite takes minutes.
PREVIOUS_TESTS = ("test_recorder.py", "test_donations.py")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the last release that was published."""
    return unpack_or_skip(PUBLISHED, tmp_path_factory.mktemp("published") / "release")


def run(release: Path, *command: str, environ: Mapping[str, str] = {}) -> subprocess.CompletedProcess[str]:
    """Runs a Python module of a release, whose folder is the current one."""
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=release,
        env={**base_environ(), **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def donationd(release: Path, url: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs a command of a release."""
    return run(release, "daemon.cli.main", *words, environ={"DATABASE_URL": url})


def test_the_tests_of_the_previous_release_pass_on_todays_schema(tmp_path: Path) -> None:
    """Its own tests of reads and writes, on a database that all of today's migrations were applied to."""
    release = unpack_or_skip(PREVIOUS, tmp_path / "release")
    shutil.copytree(ROOT / MIGRATIONS, release / MIGRATIONS, dirs_exist_ok=True)
    tests = [f"tests/integration/{name}" for name in PREVIOUS_TESTS]
    done = run(release, "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:schemathesis", *tests)
    assert done.returncode == 0, done.stdout


def test_both_releases_agree_on_a_ledger_that_both_have_written(
    published: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its gate passes, with a warning of newer migrations. What its commands correct, both releases verify."""
    record(database_url, scenarios.shuffled(scenarios.generate(5, 40, ["story-1", "story-2"], now=NOW), 1))
    gate = donationd(published, database_url, "gate")
    assert gate.returncode == 0, gate.stdout
    assert "migrations that this version does not know" in gate.stdout
    assert donationd(published, database_url, "tickets", "add", "story-3").returncode == 0
    [(donation,)] = rows(database_url, "SELECT id FROM stripe_attributions WHERE paid_at IS NOT NULL LIMIT 1")
    for words in (["assign", donation, "story-3"], ["erase", donation, "--yes"], ["verify"]):
        done = donationd(published, database_url, *words)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
    monkeypatch.setenv("DATABASE_URL", database_url)
    assert CliRunner().invoke(main, ["verify"]).exit_code == 0


def test_todays_gate_refuses_an_older_schema_and_names_the_remedy(
    published: Path, empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the migrations are applied it passes."""
    assert donationd(published, empty_url, "migrate").returncode == 0
    monkeypatch.setenv("DATABASE_URL", empty_url)
    gate = CliRunner().invoke(main, ["gate"])
    assert gate.exit_code == 1
    assert "Run: donationd migrate" in gate.output
    assert CliRunner().invoke(main, ["migrate"]).exit_code == 0
    assert CliRunner().invoke(main, ["gate"]).exit_code == 0

"""Commands for programs: with --json, standard output is one JSON object, and everything for people is elsewhere."""

import json
import subprocess
import sys
from typing import Any

import pytest
from click.testing import CliRunner

from daemon.cli.main import main
from sql import migrate
from tests.simulator.oracle import only_donation
from tests.support.guard import base_environ
from tests.support.ledger import KEY, add_ticket, named_scenario, record, rows, scenario


def environ(url: str) -> dict[str, str]:
    return {"DATABASE_URL": url, "GATE_ATTEMPTS": "1", "USER": "alex", "DONOR_EMAIL_HASH_KEY": KEY}


def run(url: str, *words: str) -> tuple[int, Any]:
    """Runs `donationd WORDS --json` on a database; returns its exit status and the object that it prints."""
    done = CliRunner().invoke(main, [*words, "--json"], env=environ(url))
    return done.exit_code, only_object(done.stdout)


def run_process(url: str, *words: str, stdin: str) -> tuple[int, Any]:
    """The same in a process of its own: where a question is asked, CliRunner prints the answer too."""
    done = subprocess.run(
        [sys.executable, "-m", "daemon.cli.main", *words, "--json"],
        env=base_environ() | environ(url), input=stdin, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, only_object(done.stdout)


def only_object(stdout: str) -> Any:
    assert stdout.count("\n") == 1, stdout
    return json.loads(stdout)


def test_the_schema(empty_url: str) -> None:
    """`migrate --status` says what is missing, edited and unknown, and which of the missing this release needs,
    `migrate` what it applied; exit 1 if anything is missing or edited.
    """
    names = [migration.name for migration in migrate.discover()]
    required = [name for name in names if migrate.number(name) <= migrate.NEEDED]
    assert run(empty_url, "migrate", "--status") == (
        1,
        {"upToDate": False, "missing": names, "edited": [], "unknown": [], "required": required},
    )
    assert run(empty_url, "migrate") == (0, {"applied": names, "booked": 0})
    assert run(empty_url, "migrate") == (0, {"applied": [], "booked": 0})
    rows(empty_url, "INSERT INTO schema_migrations (name, sha256) VALUES ('9999_later.sql', '0')")
    assert run(empty_url, "migrate", "--status") == (
        0,
        {"upToDate": True, "missing": [], "edited": [], "unknown": ["9999_later.sql"], "required": []},
    )
    rows(empty_url, f"UPDATE schema_migrations SET sha256 = '0' WHERE name = '{names[0]}'")  # noqa: S608 - a constant
    status, said = run(empty_url, "migrate", "--status")
    assert (status, said["upToDate"], said["edited"]) == (1, False, names[:1])


def test_the_gate(database_url: str, empty_url: str) -> None:
    """Passed or not, and why: a class of error and a sentence, for a wrong configuration too."""
    assert run(database_url, "gate") == (0, {"passed": True, "error": None, "detail": "all checks passed"})
    status, said = run(empty_url, "gate")
    assert (status, said["passed"], said["error"]) == (1, False, "schema out of sync")
    assert "donationd migrate" in said["detail"]
    status, said = run("", "gate")
    assert (status, said) == (1, {"passed": False, "error": "wrong configuration", "detail": "DATABASE_URL: not set"})


def test_dropped_events(database_url: str) -> None:
    """How many, and how old they were at least."""
    record(database_url, named_scenario().events)
    rows(database_url, "UPDATE stripe_events SET processed_at = now() - interval '31 days'")
    assert run(database_url, "prune", "--days", "30") == (0, {"dropped": len(named_scenario().events), "days": 30})
    assert run(database_url, "prune") == (0, {"dropped": 0, "days": 90})


def test_an_assignment(database_url: str) -> None:
    """The donation by its own id, whichever of its ids was given, the ticket, and what is on record about it."""
    add_ticket(database_url, "story-1")
    paid = scenario("no_ticket")
    record(database_url, paid.events)
    status, said = run(database_url, "assign", only_donation(paid).donation, "story-1")
    [act] = acts(database_url)
    assert (status, said) == (
        0,
        {"donation": only_donation(paid).donation, "ticket": "story-1", "by": "alex", "at": act["at"]},
    )


@pytest.mark.parametrize("by_email", [True, False])
def test_an_erasure(database_url: str, by_email: bool) -> None:
    """The donations whose donor was erased, with what is on record about it; a question to a person is no output."""
    erased = named_scenario()
    record(database_url, erased.events)
    if by_email:
        done = run_process(database_url, "erase", "--email", "--yes", stdin="alice.smith@example.com\n")
    else:
        done = run_process(database_url, "erase", only_donation(erased).donation, stdin="y\n")
    [act] = acts(database_url)
    assert done == (0, {"donations": [only_donation(erased).donation], "by": "alex", "at": act["at"]})


def acts(url: str) -> list[dict[str, str]]:
    done = CliRunner().invoke(main, ["audit", "--json"], env=environ(url))
    return [json.loads(line) for line in done.stdout.splitlines()]

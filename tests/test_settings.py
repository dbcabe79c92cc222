"""The environment is read in one way by all processes and commands (SPEC 2)."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner

from daemon import up
from daemon.cli import main

USABLE = {
    "DATABASE_URL": "postgresql://nowhere@127.0.0.1:1/none",
    "STRIPE_WEBHOOK_SECRET": "whsec_test",
    "GATE_ATTEMPTS": "1",
}


def run(words: list[str], environ: Mapping[str, str]) -> tuple[int, str]:
    """Exit status and output of a command with these variables only."""
    hidden = {name: None for name in os.environ if name.isupper()}
    done = CliRunner().invoke(main, words, env=hidden | dict(environ))
    return done.exit_code, done.output


@pytest.mark.parametrize("words", ["tickets list", "ledger story-1", "simulate", "unassigned", "erase pi_1", "verify"])
def test_a_value_that_the_api_refuses_no_command_accepts(words: str) -> None:
    """A command exits with 1 and names every mistake that the API process would name."""
    wrong = {"DEFAULT_CURRENCY": "eur", "STRIPE_LIVEMODE": "perhaps", "PORT": "http", "LOG_FORMAT": "yaml"}
    status, output = run(words.split(), {**USABLE, **wrong})
    assert status == 1
    assert [name for name in wrong if f"{name}: " not in output] == []


def test_commands_read_the_settings_of_the_embedded_instance(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without DATABASE_URL a command shows a ledger in the DEFAULT_CURRENCY that its instance was started with."""
    embedded = {"DATABASE_URL": database_url, "DEFAULT_CURRENCY": "JPY"}
    monkeypatch.setattr(up, "embedded_environ", lambda: embedded)
    assert run(["tickets", "add", "story-1"], {})[0] == 0
    shown = run(["ledger", "story-1"], {})[1]
    assert "Total: ¥0 (0 paid" in shown
    assert shown.count("(using the embedded instance of this folder)") == 1
    assert "Total: $0.00 (0 paid" in run(["ledger", "story-1"], {"DEFAULT_CURRENCY": "USD"})[1]


def test_without_a_database_a_command_says_how_to_name_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every mistake is named at once, with the two ways to a database."""
    monkeypatch.setattr(up, "embedded_environ", lambda: None)
    status, output = run(["tickets", "list"], {"LOG_FORMAT": "yaml"})
    assert status == 1
    assert "LOG_FORMAT: " in output
    assert "set DATABASE_URL to postgresql://user@host/database, or start `donationd up --embedded` here" in output


@pytest.mark.parametrize("number", ["1_0", "+10", "10.0", " 10", "1e1", "-10", "١٠"])
@pytest.mark.parametrize("name", ["SHUTDOWN_GRACE_MS", "METRICS_PORT", "GATE_ATTEMPTS", "DB_POOL_SIZE", "PORT"])
def test_a_number_is_digits_only(name: str, number: str, tmp_path: Path) -> None:
    """A number has one form, so that supervisord and every process and command read the same from it."""
    environ = {**USABLE, "HOST": "127.0.0.1"}
    assert wrong_settings({**environ, name: "10"}, tmp_path) == []
    assert [problem.split(":")[0] for problem in wrong_settings({**environ, name: number}, tmp_path)] == [name]


def wrong_settings(environ: Mapping[str, str], state: Path) -> list[str]:
    """What `up` says about these variables."""
    return up._wrong_settings(up._complete(environ, state, embedded=False))

"""README's first event: what a newcomer types, in the order in which README has it."""

import re
import subprocess
import sys

import pytest

from tests.support.docs import README, section
from tests.support.guard import base_environ
from tests.support.instance import Instance

COMMANDS = re.findall(r"^\$ (.+)$", section(README, "The first event"), re.MULTILINE)


def test_the_first_event_of_readme(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command succeeds as it is written, and the ledger shows the payments that were sent."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    instance.start()
    printed = {command: run(instance, command) for command in COMMANDS}
    [ledger] = (text for command, text in printed.items() if " ledger " in command)
    assert re.search(r"^Total: .+ \([1-9]\d* paid", ledger, re.MULTILINE)
    [page] = (text for command, text in printed.items() if command.endswith('limit=2"'))
    assert '"count":2' in page


def run(instance: Instance, command: str) -> str:
    """What a command prints, with this instance's addresses instead of the usual ones."""
    replaced = {
        ".venv/bin/donationd": f"{sys.executable} -m daemon.cli.main",
        "http://127.0.0.1:3003": instance.api,
        "http://127.0.0.1:9464": instance.sidecar,
    }
    for usual, own in replaced.items():
        command = command.replace(usual, own)
    environ = base_environ() | {"DONATIOND_STATE": str(instance.state)}
    done = subprocess.run(["bash", "-c", command], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    assert done.stdout.strip() or command.endswith("unassigned"), command
    return done.stdout

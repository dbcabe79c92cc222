"""The commands of the pages about use cases and reports: each prints what its page shows."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from click.testing import CliRunner

from daemon.cli.main import main
from daemon.simulator import scenarios
from daemon.simulator.stripe_objects import Json
from tests.support.docs import FOLDER
from tests.support.guard import base_environ
from tests.support.ledger import KEY, add_ticket, record

USE_CASES, REPORTS = FOLDER / "use-cases.md", FOLDER / "reports.md"
EMAIL = "John.Smith@example.com\n"
DAY_S = 86_400
# Times of recording, and what contains one or belongs to a release.
VARIABLE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z|(?:release|tzdata|sha256): .*")


def again(of: scenarios.Scenario, days: int) -> list[Json]:
    """The same payment of the same donor once more, days later."""
    text = json.dumps(of.events)
    text = re.sub(r'"((?:pi|ch|re|evt)_|cs_test_)', lambda found: f'"{found[1]}again{days}', text)
    text = re.sub(r'(?<="created": )\d+', lambda found: str(int(found[0]) + days * DAY_S), text)
    events: list[Json] = json.loads(text)
    return events


def shown(page: Path) -> list[tuple[str, str]]:
    """Each command of a page's console blocks, with the output below it."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output))
    return found


def run(url: str, command: str) -> str:
    """What a command prints on standard output."""
    environ = {"DATABASE_URL": url, "DONOR_EMAIL_HASH_KEY": KEY}
    if "|" in command or "--email" in command:
        return run_in_shell(command, environ)
    done = CliRunner().invoke(main, shlex.split(command)[1:], env=environ)
    assert done.exit_code == 0, (command, done.output)
    return done.stdout


def run_in_shell(command: str, environ: Mapping[str, str]) -> str:
    """The same for what needs a shell, or asks for an e-mail, which CliRunner would print too."""
    donationd = f"{sys.executable} -m daemon.cli.main"
    done = subprocess.run(
        ["bash", "-c", re.sub(r"\bdonationd(?= )", donationd, command)],
        env={**base_environ(), **environ}, input=EMAIL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


def test_each_command_prints_what_the_page_shows(database_url: str) -> None:
    """In the order of the page, on the ledger of the original design, to which one donor has given twice more."""
    add_ticket(database_url, "ticket_abc123")
    example = scenarios.seed_example()
    for events in (*(each.events for each in example), again(example[0], 2), again(example[0], 3)):
        record(database_url, events)
    commands = shown(USE_CASES)
    assert len(commands) == 8
    for command, output in commands:
        assert without_times(run(database_url, command)) == without_times(output), command


def without_times(output: str) -> str:
    return VARIABLE.sub("…", output).rstrip("\n")


def test_each_report_is_printed_as_its_page_shows(database_url: str) -> None:
    """A quarter is closed before a refund of it is known, by the page's commands in their order. What is shown below a
    command is what it prints.
    """
    add_ticket(database_url, "ticket_abc123")
    events = [event for each in scenarios.seed_example() for event in each.events]
    refund = [event for event in events if "refund" in event["type"]]
    record(database_url, [event for event in events if event not in refund])
    outputs = 0
    for command, output in shown(REPORTS):
        printed = run(database_url, command)
        if " close " in command:
            record(database_url, refund)
        if output:
            assert without_times(printed) == without_times(output), command
            outputs += 1
    assert outputs == 2

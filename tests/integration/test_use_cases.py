"""The use cases of deploy/docs/use-cases.md: each command prints what the page shows."""

import json
import os
import re
import subprocess
import sys

from daemon.simulator import scenarios
from daemon.simulator.stripe_objects import Json
from tests.support.docs import FOLDER
from tests.support.guard import base_environ
from tests.support.ledger import KEY, add_ticket, record

PAGE = FOLDER / "use-cases.md"
BLOCKS = re.findall(r"^```console\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
EMAIL = "John.Smith@example.com\n"
DAY_S = 86_400
RECORDED_AT = re.compile(r"(?<=recorded at: ).*")


def again(of: scenarios.Scenario, days: int) -> list[Json]:
    """The same payment of the same donor once more, days later."""
    text = json.dumps(of.events)
    text = re.sub(r'"((?:pi|ch|re|evt)_|cs_test_)', lambda found: f'"{found[1]}again{days}', text)
    text = re.sub(r'(?<="created": )\d+', lambda found: str(int(found[0]) + days * DAY_S), text)
    events: list[Json] = json.loads(text)
    return events


def shown(block: str) -> list[tuple[str, str]]:
    """Each command of a console block with the output below it."""
    found = []
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        found.append((command, output))
    return found


def run(url: str, command: str) -> str:
    """What a command prints on standard output; an e-mail is typed where it is asked for."""
    donationd = f"{sys.executable} -m daemon.cli.main"
    environ = base_environ() | {"DATABASE_URL": url, "DONOR_EMAIL_HASH_KEY": KEY, "PATH": os.environ["PATH"]}
    done = subprocess.run(
        ["bash", "-c", re.sub(r"\bdonationd(?= )", donationd, command)],
        env=environ, input=EMAIL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


def test_each_command_prints_what_the_page_shows(database_url: str) -> None:
    """In the order of the page, on the ledger of the original design, to which one donor has given twice more."""
    add_ticket(database_url, "ticket_abc123")
    example = scenarios.seed_example()
    for events in (*(each.events for each in example), again(example[0], 2), again(example[0], 3)):
        record(database_url, events)
    commands = [each for block in BLOCKS for each in shown(block)]
    assert len(commands) == 8
    for command, output in commands:
        printed = run(database_url, command)
        assert RECORDED_AT.sub("…", printed).rstrip("\n") == RECORDED_AT.sub("…", output).rstrip("\n"), command

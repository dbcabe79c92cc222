"""Debian's Prometheus programs, for the tests in which they check the shipped files."""

import re
import subprocess
from pathlib import Path

from tests.support.debian import program

FOLDER = Path(__file__).parents[2] / "deploy" / "prometheus"
RULES = FOLDER / "donationd.rules.yml"


def promtool(*words: str | Path, stdin: str | None = None) -> str:
    """The output of promtool; the test fails with it if promtool does."""
    command = [program("promtool", "prometheus"), *map(str, words)]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def alert_expressions() -> list[str]:
    """Every rule's expression."""
    found = re.findall(r"^ +expr: (?:\|\n((?: {10,}.*\n)+)|(.*)\n)", RULES.read_text(), re.MULTILINE)
    return [block or line for block, line in found]

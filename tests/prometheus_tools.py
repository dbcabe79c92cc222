"""Debian's Prometheus programs, for the tests that let them judge what we ship."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "deploy" / "prometheus"
RULES = FOLDER / "donationd.rules.yml"


def program(name: str, package: str = "prometheus") -> str:
    """Where `name` is. Without it the test is skipped, saying why; in CI, where it must be there, it fails."""
    if path := shutil.which(name):
        return path
    reason = f"{name} is missing: apt-get install {package}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def promtool(*words: str | Path, stdin: str | None = None) -> str:
    """What promtool says; fails the test with it unless it is content."""
    command = [program("promtool"), *map(str, words)]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr

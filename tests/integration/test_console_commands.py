"""The commands in the documents can be pasted into any usual shell."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.debian import program
from tests.support.docs import DOCUMENTS, console_commands
from tests.support.guard import base_environ


def commands() -> Iterator[str]:
    """Every command of a console block in any document."""
    for document in DOCUMENTS:
        yield from console_commands(document)


def test_there_are_commands() -> None:
    """The documents are read as they are written."""
    assert len(list(commands())) > 15
    assert any("\\\n" in command for command in commands())


@pytest.mark.parametrize("command", list(commands()))
def test_what_a_shell_would_expand_is_quoted(command: str) -> None:
    """zsh refuses a command whose `?`, `*` or brackets match no file, every shell reads a bare `&` as its own, and zsh
    has no comments at the prompt.
    """
    bare = re.sub(r"\"[^\"]*\"|'[^']*'|\$\([^)]*\)", "", command)
    assert re.findall(r"[?*\[\]{}#&]", bare.replace("&&", "")) == []


def test_zsh_runs_them(tmp_path: Path) -> None:
    """zsh itself finds nothing to complain about before it would start the programs."""
    zsh = program("zsh", "zsh")
    bad = "curl http://127.0.0.1:3003/api/tickets/story-1/donations?limit=2"
    for command, complaint in [(bad, "no matches found"), *((each, "") for each in commands())]:
        run = subprocess.run(
            [zsh, "-f", "-c", f"command_not_found_handler() {{ return 0 }}\npath=(/nowhere)\n{command}"],
            cwd=tmp_path,
            env=base_environ() | {"STRIPE_SECRET_KEY": "sk"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        complaints = [line for line in run.stderr.splitlines() if "no such file or directory" not in line]
        assert bool(complaints) is bool(complaint), (command, complaints)
        assert complaint in run.stderr

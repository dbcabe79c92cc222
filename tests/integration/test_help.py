"""`donationd --help` and the help of each command: complete, and at once."""

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from daemon.cli.main import main, run
from daemon.instance.console import os_problem, say
from daemon.reports.export import Kind, Manifest
from tests.support.guard import base_environ

MAX_CPU_S = 0.2
# Prints the modules that are imported after the help of every command has been shown.
SHOW_ALL_HELP = """
import contextlib, io, json, sys
from click import Group
from daemon.cli.main import main

def show(command, words):
    for name, each in command.commands.items():
        with contextlib.redirect_stdout(io.StringIO()):
            main([*words, name, "--help"], standalone_mode=False)
        if isinstance(each, Group):
            show(each, [*words, name])

show(main, [])
print(json.dumps(sorted(sys.modules)))
"""
SLOW = {"aiohttp", "aiopg", "asyncio", "msgspec", "prometheus_client", "psycopg2", "pydantic", "stripe", "structlog"}


def test_help_imports_no_library_but_click() -> None:
    """What a command needs is imported when it runs, and not to show a help text."""
    shown = subprocess.run([sys.executable, "-c", SHOW_ALL_HELP], capture_output=True, text=True, check=True)
    modules = json.loads(shown.stdout)
    assert {"click", "daemon.cli.commands.tickets"} <= set(modules)
    assert SLOW & set(modules) == set()


def test_settings_are_read_without_a_server_or_a_driver() -> None:
    """Commands and `up` read the settings of every process, and start without what only the processes need."""
    code = "import sys, daemon.api.config, daemon.jobs.config, health_sidecar.config; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"aiohttp", "aiopg", "babel", "jinja2", "psycopg2", "stripe"} & set(shown.stdout.split()) == set()


def test_help_takes_a_fifth_of_a_second() -> None:
    """The console command shows its help in 0.2 s of processor time."""
    donationd = Path(sys.executable).with_name("donationd")
    times_s = []
    for _ in range(3):
        process = subprocess.Popen([donationd, "--help"], stdout=subprocess.DEVNULL)
        _pid, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        times_s.append(used.ru_utime + used.ru_stime)
    assert min(times_s) < MAX_CPU_S


def test_the_list_of_commands_is_made_of_whole_sentences() -> None:
    """No command's sentence is too long for a line of 80 characters, and no command lacks one."""
    listed = CliRunner().invoke(main, ["--help"], terminal_width=80).output.split("Commands:\n")[1].splitlines()
    assert len(listed) == len(main.commands)
    assert [line for line in listed if not line.endswith(".") or line.endswith("...")] == []


def test_every_option_is_explained() -> None:
    """Each option of each command has a help text, which is a whole sentence."""

    def commands(group: click.Group) -> list[click.Command]:
        found = list(group.commands.values())
        return found + [each for command in found if isinstance(command, click.Group) for each in commands(command)]

    options = [option for command in commands(main) for option in command.params if isinstance(option, click.Option)]
    assert len(options) > 20
    assert [option.name for option in options if not (option.help or "").endswith(".")] == []


@pytest.mark.parametrize(
    "arguments", ["--help", "export --help", "export accounts hledger", "tokens new a --scopes read"]
)
def test_a_reader_that_has_read_enough_is_no_failure(arguments: str) -> None:
    """`donationd … | head` ends with 0 and prints no error."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "daemon.cli.main", *arguments.split()],
            env=base_environ(), stdout=writer, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    finally:
        os.close(writer)
    assert (done.returncode, "Error" in done.stderr, "Traceback" in done.stderr) == (0, False, False), done.stderr


def run_donationd(*arguments: str | bytes, stdout: str = "") -> "subprocess.CompletedProcess[str]":
    """A command, with its output led elsewhere by the shell."""
    words = [sys.executable, "-m", "daemon.cli.main", *arguments]
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {stdout}', "sh", *words],
        env=base_environ(),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("arguments", ["--help", "tokens new a --scopes read", "gate"])
def test_an_output_that_cannot_be_written_is_a_failure(arguments: str) -> None:
    """A full disk is one sentence, and status 1."""
    done = run_donationd(*arguments.split(), stdout="> /dev/full")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "Error: No space left on device")
    assert "Traceback" not in done.stderr


def test_a_closed_output_is_a_failure() -> None:
    """What a command prints would be lost, and the next file that it opens would take the place of the output."""
    done = run_donationd("tokens", "new", "a", "--scopes", "read", stdout=">&-")
    assert (done.returncode, done.stderr) == (1, "Error: standard output is closed; nothing was done\n")


def test_a_name_of_a_file_may_be_anything(tmp_path: Path) -> None:
    """One that is no UTF-8 is shown with its bytes; one that cannot be read is one sentence."""
    path = os.fsencode(tmp_path) + b"/caf\xe9.csv"
    Path(os.fsdecode(path)).write_bytes(b"")
    empty = Manifest(
        *(Kind.DONATIONS, "csv", 0, 0, hashlib.sha256().hexdigest(), 0, "", {}), first=None, last=None, release="1"
    )
    Path(os.fsdecode(path) + ".manifest.json").write_bytes(empty.json())
    done = run_donationd("export", "check", path)
    assert (done.returncode, "\\udce9.csv is complete" in done.stdout) == (0, True), done.stderr
    done = run_donationd("export", "check", path + b"\xff")
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)


@pytest.mark.parametrize(
    ("key", "status", "said"), [(KeyboardInterrupt, 130, "interrupted"), (EOFError, 1, "nothing was done")]
)
def test_a_question_is_left_with_ctrl_c_or_ctrl_d(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    key: type[BaseException],
    status: int,
    said: str,
) -> None:
    """Ctrl-C is 130 as anywhere else; Ctrl-D is no answer."""

    def press(_prompt: str) -> str:
        raise key

    monkeypatch.setattr("daemon.cli.main.forbid_core_dumps", lambda: None)
    monkeypatch.setattr("click.termui.visible_prompt_func", press)
    monkeypatch.setattr("daemon.cli.main.main", lambda standalone_mode: click.confirm("Erase?", abort=True))
    with pytest.raises(SystemExit) as ended:
        run()
    assert (ended.value.code, capsys.readouterr().err.strip()) == (status, said)


def test_what_the_system_reports_is_one_sentence(tmp_path: Path) -> None:
    """With the file, whatever its name is; a full disk reports none."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    with pytest.raises(FileNotFoundError) as found:
        path.read_bytes()
    assert os_problem(found.value) == f"{path}: No such file or directory"
    assert os_problem(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))) == "No space left on device"
    reader, writer = os.pipe()
    with open(reader, "rb") as shown:  # noqa: PTH123 - a descriptor
        say(os_problem(found.value), writer)
        os.close(writer)
        assert shown.read().endswith(b"/caf\\udce9: No such file or directory\n")

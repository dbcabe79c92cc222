"""`donationd`: the console command (SPEC 8). Exit status 0: done; 1: the work failed; 2: wrong usage."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from daemon.cli import commands
from daemon.instance.console import os_problem
from daemon.runtime.core_dumps import forbid_core_dumps


class ReaderGone(Exception):
    """The reader of standard output has read enough."""


class _Commands(click.Group):
    """The commands. click itself would end with status 1 when the reader has gone; `run` decides that instead."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _reader_gone():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with _reader_gone():
            return super().invoke(ctx)


@contextmanager
def _reader_gone() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise ReaderGone from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="donationd")
def main() -> None:
    """A supervised ledger of Stripe donations.

    While `donationd up --embedded` runs in this folder and DATABASE_URL is not set, the commands for people use its
    database.

    \b
    Examples:
      donationd up --embedded
      donationd tickets add story-1 --title "A new roof"
      donationd simulate --payments 20
      donationd ledger story-1
    """


def _add_commands() -> None:
    """Adds each command that a module of `daemon.cli.commands` defines under a public name."""
    for path in sorted(Path(commands.__path__[0]).glob("[!_]*.py")):
        topic = import_module(f"{commands.__name__}.{path.stem}")
        for name, command in vars(topic).items():
            if isinstance(command, click.Command) and not name.startswith("_"):
                main.add_command(command)


_add_commands()


def run() -> None:
    """The console command: Ctrl-C ends it with 130, and a reader that has read enough (`| head`) with 0.

    An error of a file, or of the output such as a full disk, is one sentence and status 1.
    """
    forbid_core_dumps()
    if sys.stdout is None:
        sys.exit("Error: standard output is closed; nothing was done")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # the name of a file may be anything
    try:
        with _reader_gone():
            status = _run_command()
            sys.stdout.flush()
    except ReaderGone:
        _discard_output()
        status = 0
    except OSError as error:
        _discard_output()
        click.echo(f"Error: {os_problem(error)}", err=True)
        status = 1
    sys.exit(status)


def _run_command() -> Any:
    """Runs the command that was given, and returns its exit status."""
    try:
        return main(standalone_mode=False)
    except SystemExit as end:
        return end.code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort as abort:
        # At a prompt click hides which of the two keys it was, Ctrl-C or Ctrl-D.
        is_interrupted = isinstance(abort.__cause__ or abort.__context__, KeyboardInterrupt)
        click.echo("interrupted" if is_interrupted else "nothing was done", err=True)
        return 130 if is_interrupted else 1


def _discard_output() -> None:
    """What is still to be written would fail again when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    run()

"""What `donationd restore-check` does."""

import asyncio
import sys

import click
import msgspec

from daemon.cli.arguments import Failure
from daemon.instance.console import CannotStart
from daemon.restore_check.drill import Drill, Outcome
from daemon.restore_check.scratch import scratch_folder
from daemon.runtime import logging as logs


def run(events: int, *, as_json: bool) -> int:
    """Runs the drill and prints what it found; returns the exit status."""
    logs.configure("text", "WARNING", timestamps=False, stream=sys.stderr)
    try:
        with scratch_folder() as folder:
            outcome = asyncio.run(Drill(folder, events, _show).run())
    except CannotStart as problem:
        raise Failure(str(problem)) from None
    if as_json:
        click.echo(_json(outcome))
    else:
        _print(outcome)
    return 0 if outcome.is_equal else 1


def _json(outcome: Outcome) -> bytes:
    compared = [each._asdict() for each in outcome.compared]
    return msgspec.json.encode(
        {
            "isEqual": outcome.is_equal,
            "compared": compared,
            "problems": outcome.problems,
            "seconds": outcome.seconds,
        }
    )


def _print(outcome: Outcome) -> None:
    """A table of what was compared, what differs, and how long the steps took."""
    click.echo(f"{'compared':<18} {'rows':>9} {'differing':>9}")
    for each in outcome.compared:
        click.echo(f"{each.kind:<18} {each.rows:>9} {each.differing:>9}")
    for each in outcome.compared:
        for example in each.examples:
            click.echo(f"{each.kind}: {example}")
    for problem in outcome.problems:
        click.echo(problem)
    for step, seconds in outcome.seconds.items():
        click.echo(f"{seconds:>8.1f} s  {step}")
    click.echo("the restored ledger is equal to the lost one" if outcome.is_equal else "the restored ledger differs")


def _show(step: str) -> None:
    click.echo(step, err=True)

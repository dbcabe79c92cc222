"""`donationd restore-check`: the restore drill."""

import sys

import click

from daemon.cli.arguments import json_option


@click.command()
@click.option(
    "--events",
    type=click.IntRange(20, 10_000_000),
    default=10_000,
    show_default=True,
    help="So many events before the backup, and as many after it.",
)
@json_option
def restore_check(events: int, as_json: bool) -> None:
    """Lose, restore and compare an invented ledger.

    Everything happens in a folder of its own, with an embedded PostgreSQL and a fake of Stripe's API: invented
    payments, a backup, then as many events again with refunds, disputes, assignments, erasures, closed reports,
    receipts and mails. The database is deleted and restored from the backup, and the operator log, Stripe's events and
    Stripe's objects bring back what it lacks. Every row and figure must be equal, byte for byte. The exit status is 1
    if anything differs.

    \b
    Examples:
      donationd restore-check
      donationd restore-check --events 1000 --json
    """
    from daemon.cli import restore_check

    sys.exit(restore_check.run(events, as_json=as_json))

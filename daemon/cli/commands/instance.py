"""`donationd up`, `reload`, `migrate`, `gate` and `accept-ledger`: an instance and its database."""

import sys

import click

from daemon.cli.arguments import json_option


@click.command()
@click.option("--embedded", is_flag=True, help="Bring a PostgreSQL of its own, in .donationd/, and migrate it.")
@click.option("--with-fake-stripe", is_flag=True, help="With --embedded: a fake of Stripe's API takes Stripe's place.")
@click.option(
    "--stop-with",
    type=int,
    metavar="PID",
    help="Also stop when the process PID, which started this one, ends or receives a hang-up (as `make run` does).",
)
def up(embedded: bool, with_fake_stripe: bool, stop_with: int | None) -> None:
    """Run everything under supervisord, in the foreground.

    Ctrl-C, SIGTERM and SIGHUP stop it. Without --stop-with it continues when the process that started it ends, as
    it must under nohup, systemd or another supervisor.

    With --with-fake-stripe everything that needs an account at Stripe can be tried without one. The fake keeps its
    payments in memory, and delivers its events signed to the API.

    \b
    Examples:
      donationd up --embedded
      donationd up --embedded --with-fake-stripe
      DATABASE_URL=postgresql://… STRIPE_WEBHOOK_SECRET=whsec_… donationd up
    """
    from daemon.instance.up import up

    sys.exit(up(embedded, stop_with, fake_stripe=with_fake_stripe))


@click.command()
def reload() -> None:
    """Replace the API processes one by one, then the jobs.

    Use it after the installation of a new release. It works on the instance of this folder. No connection is reset and
    no request fails. Where only one API process runs (API_PROCESSES=1), a connection that arrives while it ends is
    reset, and others wait about a second for the new process. A process that does not run is started. If this command
    is interrupted, every process still runs.

    The sidecar goes on as it is: the last line has the command that replaces it, and what that costs. New settings need
    a restart of `donationd up`.

    \b
    Example:
      donationd reload
    """
    from daemon.cli import instance

    instance.reload()


@click.command()
@click.option("--status", is_flag=True, help="Only list what is missing; the exit status is 1 if anything is.")
@json_option
def migrate(status: bool, as_json: bool) -> None:
    """Bring the database's schema up to date, under a lock.

    It uses MIGRATE_DATABASE_URL (the role that owns the schema), or DATABASE_URL where that is not set. Rows that
    releases before the journal stored are then booked in it, some hundred at a time, beside live traffic. If that is
    interrupted, the next run books the rows that are left.

    \b
    Examples:
      donationd migrate
      donationd migrate --status
      donationd migrate --status --json | jq .missing
    """
    from daemon.cli import instance

    if status:
        sys.exit(instance.print_drift(as_json=as_json))
    instance.migrate(as_json=as_json)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs; the log goes to stderr.")
def gate(as_json: bool) -> None:
    """Run the startup gate once and print what it found.

    \b
    Examples:
      DATABASE_URL=postgresql://… donationd gate
      donationd gate --json | jq .detail
    """
    from daemon.cli import instance

    sys.exit(instance.gate(as_json=as_json))


@click.command()
@json_option
def accept_ledger(as_json: bool) -> None:
    """End the report that the ledger lacks rows.

    The sidecar reports a database that went back in time (a failover to a lagging standby, a restored backup), or that
    contains another ledger, until this command ends the report. Bring back what is lost first: `donationd status` names
    the commands. Run it on each host, in the folder where `donationd up` runs, with the same DATABASE_URL. It changes a
    file of the sidecar's, and nothing in the database.

    \b
    Examples:
      donationd accept-ledger
      donationd accept-ledger --json | jq .entry
    """
    from daemon.cli import instance

    instance.accept_ledger(as_json=as_json)

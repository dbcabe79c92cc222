"""`donationd demo`: an instance with invented donations, to look at."""

import os
import sys

import click


@click.command()
@click.option("--payments", type=click.IntRange(1, 100_000), default=300, show_default=True, help="Invent this many.")
@click.option("--stop-with", type=int, metavar="PID", help="Also stop when the process PID ends (as `make demo` does).")
def demo(payments: int, stop_with: int | None) -> None:
    """Run an instance with a month of invented donations.

    It is `donationd up --embedded --with-fake-stripe`, which then gets three tickets, and donations, refunds and
    disputes as signed Stripe events. It prints the pages to open, and the token for the operator console. What is in
    the state folder already stays; the same payments are not added twice. It refuses another database than the embedded
    one, and live mode. Ctrl-C stops everything.

    \b
    Examples:
      donationd demo
      donationd demo --payments 5000
    """
    from daemon.cli.demo import run

    sys.exit(run(os.environ, payments, stop_with))

"""`donationd status`: everything on one screen."""

import sys

import click

from daemon.cli.arguments import json_option


@click.command()
@json_option
def status(as_json: bool) -> None:
    """Show the state of everything on one screen.

    Processes, database, events, what waits for an operator, and the last changes. It asks the sidecar (METRICS_HOST,
    METRICS_PORT). The exit status is 0 only if all is well.

    \b
    Examples:
      donationd status
      donationd status --json | jq .problems
    """
    from daemon.cli import status

    sys.exit(status.print_status(as_json=as_json))

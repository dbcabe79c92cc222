"""`donationd failed`: the events that could not be applied, for the operator who decides about them."""

import click

from daemon.cli.arguments import by_option, check_event, json_lines_option, limit_option


@click.group()
def failed() -> None:
    """List and dismiss the events that could not be applied.

    Each keeps the reason, without a donor's data. Stripe delivers it again for three days, and a release that can apply
    it does so then. An event that is not needed any more can be dismissed, so that `donationd status` is well.

    \b
    Examples:
      donationd failed list
      donationd failed dismiss evt_1PqXb2Lkd --by alex
    """


@failed.command("list")
@click.option("--all", "with_dismissed", is_flag=True, help="Also list those that were dismissed.")
@limit_option
@json_lines_option
def _list(with_dismissed: bool, limit: int, as_json: bool) -> None:
    """List the events that could not be applied, with the reason; the one received last first.

    \b
    Examples:
      donationd failed list
      donationd failed list --all --json | jq .error
    """
    from daemon.cli import failed

    failed.print_all(limit, with_dismissed=with_dismissed, as_json=as_json)


@failed.command("dismiss")
@click.argument("event", metavar="ID", callback=check_event)
@by_option
def _dismiss(event: str, actor: str) -> None:
    """Stop waiting for an event that could not be applied.

    It keeps its reason, and is neither counted nor listed any more. Who dismissed it and when is on record
    (`donationd audit`). If a newer release can apply it, a later delivery is applied all the same.

    \b
    Example:
      donationd failed dismiss evt_1PqXb2Lkd --by alex
    """
    from daemon.cli import failed

    failed.dismiss(event, actor)

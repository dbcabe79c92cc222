"""`donationd verify`, `rebuild` and `prune`: check the ledger, derive it again, and remove old events."""

import click

from daemon.cli.arguments import check_hash, json_lines_option, json_option

STRIPE_KEEPS_DAYS = 30  # https://docs.stripe.com/api/events: older ones can't be delivered again


@click.command()
@click.option(
    "--audit-hash",
    callback=check_hash,
    metavar="HASH",
    help="A hash of the audit log that you noted before (`donationd audit`): its actions must still be there.",
)
@json_lines_option
def verify(audit_hash: str | None, as_json: bool) -> None:
    """Check the ledger against its facts, and the audit log.

    Each donation and each total is derived again, and each difference is printed. It changes nothing, and runs beside
    live traffic, on a snapshot. The exit status is 1 if anything differs. Rows that an older release derived by other
    rules differ until `donationd rebuild` has derived them again.

    Each action in the audit log has a hash of itself and of the action before it, so that one that was changed, removed
    or inserted later is found. That the newest actions were removed, or that all hashes were computed again, is found
    only with --audit-hash.

    \b
    Examples:
      donationd verify
      donationd verify --json
    """
    from daemon.cli import maintenance

    maintenance.verify(audit_hash, as_json=as_json)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end, for programs.")
def rebuild(as_json: bool) -> None:
    """Derive again the rows that an older release derived.

    Run it after an upgrade that changed a rule, when all processes run the new release. It runs beside live traffic,
    some hundred rows at a time. Ctrl-C loses nothing: the next run continues with the rows that are left. Rows that are
    up to date are not changed. Totals that differ from the sum of their rows are corrected.

    \b
    Examples:
      donationd rebuild
      donationd rebuild --json
    """
    from daemon.cli import maintenance

    maintenance.rebuild(as_json=as_json)


@click.command()
@click.option(
    "--days",
    type=click.IntRange(STRIPE_KEEPS_DAYS, 36_500),
    default=90,
    show_default=True,
    help=f"Keep the events of this many days; at least {STRIPE_KEEPS_DAYS}, because Stripe can deliver those again.",
)
@json_option
def prune(days: int, as_json: bool) -> None:
    """Drop the rows of events that were applied long ago.

    No donation and no total changes. It runs beside live traffic, some thousand rows at a time; Ctrl-C loses nothing.
    Events that could not be applied are kept.

    \b
    Example:
      donationd prune --days 45
    """
    from daemon.cli import maintenance

    maintenance.prune(days, as_json=as_json)

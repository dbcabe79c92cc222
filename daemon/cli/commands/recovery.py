"""`donationd replay` and `reconcile`: bring back what the ledger lacks, from Stripe's API."""

import click

from daemon.cli.arguments import check_optional_event, check_since, json_lines_option, json_option

since_option = click.option(
    "--since",
    callback=check_since,
    metavar="TIME",
    help="Read what was created since then: a day or a time such as 2026-11-01 or 2026-11-01T12:00:00Z (in UTC "
    "unless it names a zone), or a number of days such as 3d.",
)


@click.command()
@click.argument("event", required=False, callback=check_optional_event)
@since_option
@click.option("--failed", is_flag=True, help="Only the events on record that could not be applied (`failed list`).")
@json_option
def replay(event: str | None, since: int | None, failed: bool, as_json: bool) -> None:
    """Record lost events, which Stripe still has.

    They are read from Stripe's event list, and recorded as if they were delivered now. Stripe keeps events for 30 days;
    without arguments all of them are read. Events that are on record change nothing,
    so that any part of the list can be read again. It runs beside live traffic. An interrupted run (Ctrl-C, a lost
    connection, too many requests) loses nothing: run the same command again, and it continues. The exit status is 1 if
    an event could not be applied, or if the list was not read to its end.

    \b
    Examples:
      donationd replay
      donationd replay --since 3d
      donationd replay --failed
      donationd replay evt_1PqXb2Lkd
    """
    from daemon.cli import recovery

    if (event is not None) + (since is not None) + failed > 1:
        raise click.UsageError("give EVENT, --since or --failed, only one of them")
    recovery.replay(event, since, only_failed=failed, as_json=as_json)


@click.command()
@since_option
@click.option(
    "--dry-run", is_flag=True, help="List the differences and correct nothing; exit status 1 if there are any."
)
@click.option(
    "--rehash", is_flag=True, help="Also compute the donors' e-mail hashes with the present DONOR_EMAIL_HASH_KEY."
)
@json_lines_option
def reconcile(since: int | None, dry_run: bool, rehash: bool, as_json: bool) -> None:
    """Compare the ledger with Stripe's objects, and correct it.

    Reads subscriptions, invoices, sessions, PaymentIntents, charges, refunds, disputes and early fraud warnings, prints
    each difference from the ledger, and then corrects it; a second run finds nothing. Unlike `replay` it does not
    depend on Stripe's 30 days. Run `replay` first: an event has the exact time of what happened, an object not always.

    Donations that Stripe does not know, as those of another account, are listed and stay. It runs beside live traffic.
    An interrupted run loses nothing: run the same command again, and it continues. The exit status is 1 if an object
    could not be compared, or if not everything was read.

    \b
    Examples:
      donationd reconcile --dry-run --since 40d
      donationd reconcile
      donationd reconcile --json | jq -r .subject
    """
    from daemon.cli import recovery

    recovery.reconcile(since, dry_run=dry_run, rehash=rehash, as_json=as_json)

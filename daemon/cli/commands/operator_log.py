"""`donationd operator-log`: what Stripe cannot give back to a restored ledger, in a file outside the database."""

from pathlib import Path

import click

from daemon.cli.arguments import check_hash, json_option

log_argument = click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))


@click.group("operator-log")
def operator_log() -> None:
    """Keep in a file what Stripe cannot give back.

    The log has the operators' actions, the tickets, the closed reports with the entries that they were made from, and
    what became of mails and receipts; nothing of a donor. `apply` brings it into a restored ledger. Lines are only
    appended, each with a hash of itself and of the line before it. Without FILE each command uses OPERATOR_LOG, to
    which the jobs append every minute.
    """


@operator_log.command("export")
@log_argument
@json_option
def _export(file: Path | None, as_json: bool) -> None:
    """Append what the log has not yet.

    FILE is made unless it exists. The log of another ledger, and one whose end is not as it was written, is refused.
    Note the hash that is printed, or copy the file to another place: a log that lacks its newest lines looks complete.

    \b
    Examples:
      donationd operator-log export
      donationd operator-log export /mnt/backup/operator.log
    """
    from daemon.cli import operator_log

    operator_log.export(file, as_json=as_json)


@operator_log.command("verify")
@log_argument
@click.option(
    "--hash",
    "known_hash",
    callback=check_hash,
    metavar="HASH",
    help="The hash of a line that you noted before: the log must contain it.",
)
@json_option
def _verify(file: Path | None, known_hash: str | None, as_json: bool) -> None:
    """Check every line of the log; needs no database.

    \b
    Examples:
      donationd operator-log verify /mnt/backup/operator.log
      donationd operator-log verify --hash "$NOTED"
    """
    from daemon.cli import operator_log

    operator_log.verify(file, known_hash, as_json=as_json)


@operator_log.command("apply")
@log_argument
@click.option(
    "--audit-hash",
    callback=check_hash,
    metavar="HASH",
    help="A hash of the audit log that you noted before (`donationd audit`): the log must contain it.",
)
@json_option
def _apply(file: Path | None, audit_hash: str | None, as_json: bool) -> None:
    """Apply the log to a restored ledger, before it is served.

    Operators' actions, tickets, closed reports, receipts and the states of mails come back as they were. Donors who
    were erased are erased again, and stay so when Stripe's events arrive later. The whole log is checked first; if it
    is not this ledger's, or the ledger was used since it was restored, nothing is changed. It may be run again.

    Until the ledger has been compared with Stripe's objects (`donationd reconcile`) no mail is sent.

    \b
    Example:
      donationd operator-log apply /mnt/backup/operator.log
    """
    from daemon.cli import operator_log

    operator_log.apply(file, audit_hash, as_json=as_json)

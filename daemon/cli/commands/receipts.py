"""`donationd receipts`: the register of receipts, reprints, yearly statements, and mails that were not delivered."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from daemon.cli.arguments import by_option, check_hash, json_lines_option, limit_option

if TYPE_CHECKING:
    from daemon.receipts.register import Serial

FOLDER = click.Path(file_okay=False, path_type=Path)  # it is made if need be


def _check_serial(_context: click.Context, _parameter: click.Parameter, value: str) -> "Serial":
    from daemon.receipts.register import Serial

    try:
        return Serial.parse(value)
    except ValueError as problem:
        raise click.BadParameter(str(problem)) from None


@click.group()
def receipts() -> None:
    """Receipts for donors, and the mails with them.

    They are made and sent by the process `jobs`. Names and addresses are fetched from Stripe whenever a document is
    made, and are not stored.

    \b
    Examples:
      donationd receipts check
      donationd receipts list --year 2026 --csv > receipts.csv
      donationd receipts reprint 2026-000123 --out receipt.pdf --by alex
      donationd receipts undelivered
    """


@receipts.command("check")
@click.option("--out", type=FOLDER, help="Write a made-up receipt in each language into this folder.")
def _check(out: Path | None) -> None:
    """Check templates, fonts and the mail server. Nothing is sent.

    Every document is made in every language, for a made-up donor. Exit status 1 if something must be corrected.

    \b
    Examples:
      donationd receipts check
      donationd receipts check --out samples
    """
    from daemon.cli import receipts

    receipts.check(out)


@receipts.command("list")
@click.option("--year", type=click.IntRange(2000, 9999), help="Only those of this year.")
@click.option("--csv", "as_csv", is_flag=True, help="Print a CSV file.")
@json_lines_option
def _list(year: int | None, as_csv: bool, as_json: bool) -> None:
    """List the receipts that were issued, in the order of their numbers, with what became of each.

    The hash is that of the PDF that the donor was sent. No donor is named.

    \b
    Examples:
      donationd receipts list
      donationd receipts list --year 2026 --csv > receipts.csv
      donationd receipts list --json | jq .state
    """
    if as_csv and as_json:
        raise click.UsageError("choose --csv or --json")
    from daemon.cli import receipts

    receipts.print_all(year, form="csv" if as_csv else "json" if as_json else "text")


@receipts.command("reprint")
@click.argument("number", callback=_check_serial)
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The file for the PDF.")
@by_option
def _reprint(number: "Serial", out: Path, actor: str) -> None:
    """Print a receipt again, marked DUPLICATE.

    The donor's name and address are those that Stripe has now. Who printed it is on record (`donationd audit`). If the
    original can be made again, byte for byte, this is said.

    \b
    Example:
      donationd receipts reprint 2026-000123 --out receipt.pdf --by alex
    """
    from daemon.cli import receipts

    receipts.reprint(number, out, actor)


@receipts.command("yearly")
@click.argument("year", type=click.IntRange(2000, 9998))
@click.option("--out", required=True, type=FOLDER, help="The folder for the PDFs; those that it has already stay.")
@click.option(
    "--email", "by_email", is_flag=True, help="Only of one donor, whose e-mail is asked for, or read from a pipe."
)
@click.option("--hash", "email_hash", callback=check_hash, help="Only of the donor with this e-mail hash.")
@by_option
def _yearly(year: int, out: Path, by_email: bool, email_hash: str | None, actor: str) -> None:
    """Make a statement of what each donor gave in a year, as a PDF named after the donor's e-mail hash.

    It lists the donations that were paid in the year (REPORT_TIME_ZONE), less what was refunded or taken back by
    disputes, with their receipts. An interrupted run is continued by the same command. Who made it is on record.
    A donor whose statement cannot be made is named at the end, with exit status 1; the others get theirs.

    \b
    Examples:
      donationd receipts yearly 2025 --out statements --by alex
      donationd receipts yearly 2025 --out statements --email --by alex
    """
    if by_email and email_hash:
        raise click.UsageError("choose --email or --hash")
    from daemon.cli import receipts

    receipts.make_statements(year, out, by_email=by_email, email_hash=email_hash, actor=actor)


@receipts.command("undelivered")
@limit_option
@json_lines_option
def _undelivered(limit: int, as_json: bool) -> None:
    """List the mails to donors that were not delivered, or were perhaps sent, with the class of the reason.

    \b
    Examples:
      donationd receipts undelivered
      donationd receipts undelivered --json | jq .donation
    """
    from daemon.cli import receipts

    receipts.print_undelivered(limit, as_json=as_json)


@receipts.command("retry")
@click.argument("mail", type=click.IntRange(min=1), metavar="ID")
@by_option
def _retry(mail: int, actor: str) -> None:
    """Send a mail once more, after its cause was removed: for example, after the address was corrected at Stripe.

    A mail that was perhaps sent may then arrive twice; both copies have the same Message-ID.

    \b
    Example:
      donationd receipts retry 17 --by alex
    """
    from daemon.cli import receipts

    receipts.retry(mail, actor)


@receipts.command("dismiss")
@click.argument("mail", type=click.IntRange(min=1), metavar="ID")
@by_option
def _dismiss(mail: int, actor: str) -> None:
    """Stop waiting for a mail: it is not sent, and not listed any more.

    \b
    Example:
      donationd receipts dismiss 17 --by alex
    """
    from daemon.cli import receipts

    receipts.dismiss(mail, actor)

"""`donationd export`: donations and journal entries as files for spreadsheets, accounting and other programs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from daemon.cli.arguments import by_option, check_currency, check_moment, check_ticket, time_zone_option

PROFILES = ("standard", "excel", "excel-de")
PROGRAMS = ("hledger", "beancount")
STATUSES = ("CREATED", "PAID", "FAILED", "REFUNDED", "DISPUTED", "EXPIRED")

Command = TypeVar("Command", bound=Callable[..., None])


def _check_key(kind: str) -> Callable[[click.Context, click.Parameter, str | None], str | None]:
    def check(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
        from daemon.reports.export import Kind, parse_key

        try:
            return None if value is None else parse_key(Kind(kind), value)
        except ValueError as expected:
            raise click.BadParameter(f"this is not {expected}, as `last` in a manifest has it") from None

    return check


def _check_time(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    from daemon.reports.export import parse_time
    from daemon.reports.time_zones import load_time_zone

    try:
        if value is not None:
            parse_time(value, load_time_zone("UTC"))
    except (ValueError, OverflowError):
        raise click.BadParameter("a day such as 2026-10-01, or a time such as 2026-10-01T12:00:00Z") from None
    return value


def _check_optional_ticket(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    return None if value is None else check_ticket(context, parameter, value)


def _options(kind: str, formats: tuple[str, ...], period_is_of: str) -> Callable[[Command], Command]:
    """The options that both kinds of exports have."""
    options: tuple[Callable[[Any], Any], ...] = (
        click.option("--format", "format_name", type=click.Choice(formats), default="csv", show_default=True,
                     help="The format of the file."),
        click.option("--profile", type=click.Choice(PROFILES),
                     help="How a CSV file is written: standard (the default), for Excel, for a German Excel."),
        click.option("--out", type=click.Path(dir_okay=False, path_type=Path),
                     help="Write to this file, and its manifest beside it; without it to standard output."),
        click.option("--manifest", type=click.Path(dir_okay=False, path_type=Path),
                     help="Write the manifest to this file; with --out it is FILE.manifest.json."),
        click.option("--ticket", callback=_check_optional_ticket, help="Only of this ticket."),
        click.option("--currency", callback=check_currency, help="Only in this currency, such as EUR."),
        click.option("--from", "from_", callback=_check_time, metavar="TIME",
                     help=f"Only those {period_is_of} at this day or time, or later."),
        click.option("--to", callback=_check_time, metavar="TIME",
                     help=f"Only those {period_is_of} before this day or time."),
        time_zone_option,
        click.option("--after", callback=_check_key(kind), metavar="KEY",
                     help="Continue after this row: `last` in the manifest of the part before."),
        click.option("--no-header", is_flag=True,
                     help="Leave out the first line of a CSV file, and what a journal declares."),
        by_option,
    )  # fmt: skip

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@click.group()
def export() -> None:
    """Write donations or journal entries to a file.

    Each export is of one moment, and is recorded (`donationd audit`). Beside a file lies its manifest, which says what
    the complete file contains.

    \b
    Examples:
      donationd export donations --profile excel --out donations.csv
      donationd export entries --format hledger --out donations.journal
      donationd export check donations.csv
    """


@export.command("donations")
@_options("donations", ("csv", "jsonl"), "paid")
@click.option("--status", type=click.Choice(STATUSES, case_sensitive=False), help="Only with this status.")
@click.option("--unpaid", is_flag=True, help="Also the donations that were never paid; their time is that of creation.")
def _donations(**options: Any) -> None:
    """Export one row for each donation, in the order of their ids.

    The amounts are those that the totals count: what was paid, refunded and disputed of it until now. The manifest says
    how to continue; a part that continues later is of a later moment.

    \b
    Examples:
      donationd export donations > donations.csv
      donationd export donations --profile excel-de --out spenden.csv
      donationd export donations --ticket story-1 --format jsonl --out story-1.jsonl
      donationd export donations --from 2026-10-01 --to 2027-01-01 --tz Europe/Berlin --out 2026-Q4.csv
    """
    from daemon.cli import export

    export.run("donations", export.Options(**options))


@export.command("entries")
@_options("entries", ("csv", "jsonl", *PROGRAMS), "that moved money")
@click.option(
    "--as-of",
    "as_of",
    callback=check_moment,
    metavar="SEQ|TIME",
    help="Only up to this entry, or up to the last one recorded at this time.",
)
@click.option(
    "--accounts",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The names of the accounts for hledger or beancount; see `donationd export accounts`.",
)
def _entries(**options: Any) -> None:
    """Export the journal, one row for each entry, in the order of recording.

    An entry is what a payment, a refund or a dispute adds to the figures; their sums are the totals. Entries never
    change, so --after with the last number gives exactly the entries since. For hledger and beancount each entry is a
    transaction on the day when the money moved, and so is each fee of Stripe's that is known. CSV and JSON lines have
    no fees: `donationd export donations` has that of each donation.

    \b
    Examples:
      donationd export entries --out entries.csv
      donationd export entries --format hledger --tz Europe/Berlin --out donations.journal
      donationd export entries --format beancount --accounts accounts.toml --out donations.beancount
      donationd export entries --after 20456 --out november.csv
    """
    from daemon.cli import export

    export.run("entries", export.Options(**options))


@export.command("accounts")
@click.argument("program", type=click.Choice(PROGRAMS))
def _accounts(program: str) -> None:
    """Print the names of the accounts in journals, to change them.

    \b
    Example:
      donationd export accounts hledger > accounts.toml
    """
    from daemon.cli import export

    export.print_accounts(program)


@export.command("check")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--manifest",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file's manifest; without it FILE.manifest.json.",
)
def _check(file: Path, manifest: Path | None) -> None:
    """Compare a file with its manifest.

    The exit status is 1 if the file is not complete or was changed.

    \b
    Example:
      donationd export check donations.csv
    """
    from daemon.cli import export

    export.check(file, manifest)

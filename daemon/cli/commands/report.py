"""`donationd report`: what the ledger adds up to, for accountants and analysts."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from daemon.cli.arguments import check_moment, check_optional_ticket, time_zone_option

if TYPE_CHECKING:
    from daemon.ledger.reader import Moment

Command = TypeVar("Command", bound=Callable[..., Any])

PERIODS = "2026, 2026-Q4, 2026-11, 2026-W48, 2026-11-26 or 2026-10-01..2026-12-31"

_ticket_option = click.option("--ticket", callback=check_optional_ticket, help="Only what is for this ticket.")
_moment_option = click.option(
    "--as-of",
    "moment",
    callback=check_moment,
    metavar="SEQ|TIME",
    help="As it was known after an entry of the journal, or at a time such as 2026-01-31T00:00:00Z.",
)


def _period_option(*, required: bool) -> Callable[[Command], Command]:
    without = "" if required else " Without it, all times."
    return click.option("--period", required=required, help=f"The period: {PERIODS}.{without}")


def _form_options(command: Command) -> Command:
    """--json and --csv; the last one counts."""
    for name, text in (("csv", "Print CSV, for spreadsheets."), ("json", "Print one JSON object, for programs.")):
        command = click.option(f"--{name}", "form", flag_value=name, help=text)(command)
    return command


@click.group()
def report() -> None:
    """Add up the ledger for accountants and analysts.

    Currencies are never added together. Days, weeks and months begin at midnight in the time zone REPORT_TIME_ZONE, or
    in that of --tz. The head of each report names what it was made from.

    \b
    Examples:
      donationd report income --period 2026-Q4 --tz Europe/Berlin
      donationd report series --by month --period 2026
    """


@report.command("income")
@_period_option(required=True)
@time_zone_option
@_ticket_option
@_moment_option
@_form_options
def _income(period: str, time_zone: str | None, ticket: str | None, moment: "Moment | None", form: str | None) -> None:
    """Print the payments, refunds and disputes of a period.

    They are added up from the journal per currency and ticket, by the time when the money moved in Stripe. With the
    same --as-of, time zone, release and tzdata the same report is printed at any later time, byte for byte.

    \b
    Examples:
      donationd report income --period 2026-Q4
      donationd report income --period 2026-Q4 --tz Europe/Berlin --as-of 48210
      donationd report income --period 2026-11 --ticket story-1 --csv
    """
    from daemon.cli import reports

    reports.print_income(period=period, time_zone=time_zone, ticket=ticket, moment=moment, form=form)


@report.command("series")
@click.option(
    "--by", "unit", type=click.Choice(["day", "week", "month"]), required=True, help="What each row is about."
)
@_period_option(required=False)
@time_zone_option
@_ticket_option
@_moment_option
@_form_options
def _series(
    *,
    unit: str,
    period: str | None,
    time_zone: str | None,
    ticket: str | None,
    moment: "Moment | None",
    form: str | None,
) -> None:
    """Print what moved in each day, week or month.

    The figures are those of `donationd report income`, from the journal. Weeks begin on Monday (ISO 8601). The first
    and the last row are cut where the period begins and ends.

    \b
    Examples:
      donationd report series --by day --period 2026-11
      donationd report series --by month --ticket story-1 --json
    """
    from daemon.cli import reports

    reports.print_series(unit, period=period, time_zone=time_zone, ticket=ticket, moment=moment, form=form)

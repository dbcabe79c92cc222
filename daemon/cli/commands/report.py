"""`donationd report`: what the ledger adds up to, for accountants and analysts."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from daemon.cli.arguments import (
    MAX_ROWS,
    by_option,
    check_moment,
    check_optional_ticket,
    check_payout,
    json_lines_option,
    json_option,
    time_zone_option,
)

if TYPE_CHECKING:
    from daemon.ledger.reader import Moment

Command = TypeVar("Command", bound=Callable[..., Any])

PERIODS = "2026, 2026-Q4, 2026-11, 2026-W48, 2026-11-26 or 2026-10-01..2026-12-31"

_period_argument = click.argument("period")
_ticket_option = click.option("--ticket", callback=check_optional_ticket, help="Only what is for this ticket.")
_moment_option = click.option(
    "--as-of",
    "moment",
    callback=check_moment,
    metavar="SEQ[.FEES]|TIME",
    help="As it was known after an entry of the journal (with .FEES: and after a fee), or at a time such as "
    "2026-01-31T00:00:00Z.",
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
    """Print the payments, refunds and disputes of a period, and the fees.

    They are added up from the journal per currency and ticket, by the time when the money moved in Stripe. Fees are in
    the currency in which Stripe settles; how many donations have a fee that is not known yet is stated. With the
    same --as-of, time zone, release and tzdata the same report is printed at any later time, byte for byte.

    \b
    Examples:
      donationd report income --period 2026-Q4
      donationd report income --period 2026-Q4 --tz Europe/Berlin --as-of 48210
      donationd report income --period 2026-11 --ticket story-1 --csv
    """
    from daemon.cli import reports

    reports.print_income(period=period, time_zone=time_zone, ticket=ticket, moment=moment, form=form)


@report.command("close")
@_period_argument
@time_zone_option
@_moment_option
@by_option
@json_option
def _close(*, period: str, time_zone: str | None, moment: "Moment | None", actor: str, as_json: bool) -> None:
    """Keep what the report of a period's income was when it was filed.

    Stored are the period, the time zone, the last entry of the journal that counts, and the SHA-256 of what `donationd
    report income --json` prints. Who closed it and when is on record (`donationd audit`). A period that has not ended
    cannot be closed. Closing it again makes a new version; earlier ones are kept.

    \b
    Examples:
      donationd report close 2026-Q4 --tz Europe/Berlin --by alex
      donationd report close 2026-Q4 --as-of 48210
    """
    from daemon.cli import reports

    reports.close(period=period, time_zone=time_zone, moment=moment, actor=actor, as_json=as_json)


@report.command("closed")
@click.argument("period", required=False)
@json_lines_option
def _closed(period: str | None, as_json: bool) -> None:
    """List the periods that were closed, the one closed last at the end.

    \b
    Examples:
      donationd report closed
      donationd report closed 2026-Q4 --json
    """
    from daemon.cli import reports

    reports.print_closed(period, as_json=as_json)


@report.command("restated")
@_period_argument
@time_zone_option
@click.option(
    "--version", type=click.IntRange(1, MAX_ROWS), help="The version of the closed report; without it the newest one."
)
@_moment_option
@_form_options
def _restated(
    *, period: str, time_zone: str | None, version: int | None, moment: "Moment | None", form: str | None
) -> None:
    """Print a closed period as it was filed, the period now, and every reason for the difference.

    The reasons are the entries of the journal that were recorded since and whose money moved in the period: the
    differences are their sums, exactly. With the same --version, --as-of, time zone, release and tzdata the same report
    is printed at any later time, byte for byte. The exit status is 1 if the journal no longer gives what was filed.

    \b
    Examples:
      donationd report restated 2026-Q4 --tz Europe/Berlin
      donationd report restated 2026-Q4 --version 1 --as-of 51007 --csv
    """
    from daemon.cli import reports

    reports.print_restated(period=period, time_zone=time_zone, version=version, moment=moment, form=form)


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


@report.command("payouts")
@_period_option(required=False)
@click.option("--payout", callback=check_payout, metavar="PO", help="Only this payout, such as po_1PqXb2Lkd.")
@time_zone_option
@_form_options
def _payouts(period: str | None, payout: str | None, time_zone: str | None, form: str | None) -> None:
    """Print the payouts to the bank account, each with the transactions that it is the sum of.

    The payouts are those that arrive in the period. Fees count as amounts below 0. A payout that its transactions do
    not add up to is marked with the difference, and then the exit status is 1. Stripe does not state which transactions
    a manual or instant payout consists of: such payouts are not attributable. `donationd` reads payouts every hour,
    with STRIPE_API_KEY.

    \b
    Examples:
      donationd report payouts --period 2026-11
      donationd report payouts --payout po_1PqXb2Lkd --csv
    """
    from daemon.cli import reports

    reports.print_payouts(period=period, payout=payout, time_zone=time_zone, form=form)


@report.command("summary")
@_period_option(required=False)
@time_zone_option
@_ticket_option
@_form_options
def _summary(*, period: str | None, time_zone: str | None, ticket: str | None, form: str | None) -> None:
    """Print number, sums, average, median and largest amount of the paid donations.

    The donations count as they are now, in the period in which they were paid first. The average and the median are
    exact fractions in --json and --csv; `rounded` are the same to the minor unit. Donors are counted by e-mail hash:
    new ones gave for the first time ever within the period, repeat donors several times.

    \b
    Examples:
      donationd report summary --period 2026-Q4 --tz Europe/Berlin
      donationd report summary --ticket story-1 --json
    """
    from daemon.cli import reports

    reports.print_summary(period=period, time_zone=time_zone, ticket=ticket, form=form)


@report.command("tickets")
@_period_option(required=False)
@time_zone_option
@_form_options
def _tickets(*, period: str | None, time_zone: str | None, form: str | None) -> None:
    """Print what was given for each ticket.

    The donations count as in `donationd report summary`. The ticket with the largest net sum of a currency comes first.

    \b
    Examples:
      donationd report tickets
      donationd report tickets --period 2026 --csv
    """
    from daemon.cli import reports

    reports.print_tickets(period=period, time_zone=time_zone, form=form)


@report.command("donors")
@_period_option(required=False)
@time_zone_option
@_ticket_option
@click.option(
    "--order",
    type=click.Choice(["amount", "donations"]),
    default="amount",
    show_default=True,
    help="Whether the largest net sums come first, or the donors with the most donations.",
)
@click.option("--limit", type=click.IntRange(1, MAX_ROWS), default=20, show_default=True, help="Donors per currency.")
@_form_options
def _donors(
    *, period: str | None, time_zone: str | None, ticket: str | None, order: str, limit: int, form: str | None
) -> None:
    """Print the largest donors, or those with the most donations, by e-mail hash only.

    The donations count as in `donationd report summary`. Donations without an e-mail, and those whose donor was erased,
    have no hash and are not listed.

    \b
    Examples:
      donationd report donors --period 2026
      donationd report donors --order donations --limit 100 --csv
    """
    from daemon.cli import reports

    reports.print_donors(
        period=period, time_zone=time_zone, ticket=ticket, by_donations=order == "donations", limit=limit, form=form
    )


@report.command("fraud")
@json_lines_option
def _fraud(as_json: bool) -> None:
    """Print the signals of fraud of the last 24 hours, each with its reason.

    Card testing, payments with one e-mail hash in a burst, refunds soon after the payment, open early fraud warnings,
    and unusual countries from which attempts fail. Alarms come first. Nothing is refused or refunded because of a
    signal. The thresholds are settings (FRAUD_…).

    \b
    Examples:
      donationd report fraud
      donationd report fraud --json | jq 'select(.level == "alarm")'
    """
    from daemon.cli import fraud

    fraud.print_signals(as_json=as_json)

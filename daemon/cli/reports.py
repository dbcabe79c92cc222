"""What `donationd report` does."""

import sys
from collections.abc import Awaitable, Callable

import click

from daemon.api.config import CommandConfig
from daemon.cli.arguments import Failure
from daemon.cli.database import LONG_S, ask
from daemon.cli.settings import settings
from daemon.ledger.reader import Moment
from daemon.reports import income
from daemon.reports.forms import Report, as_csv, as_json, as_text
from daemon.reports.income import TooManyPeriods
from daemon.reports.journal import MomentInFuture
from daemon.reports.periods import NoPeriod, Period, Unit
from daemon.reports.tickets import UnknownTicket
from sql.database import Database

FORMS = {None: as_text, "json": as_json, "csv": as_csv}
SHOWN_FROM = 200_000  # entries: a second's work

Make = Callable[[Database], Awaitable[Report]]


def print_income(
    *, period: str, time_zone: str | None, ticket: str | None, moment: Moment | None, form: str | None
) -> None:
    """Prints the income of a period."""
    of = _period(period, _time_zone(time_zone))
    _print(lambda db: income.income(db, of, moment=moment, ticket=ticket, progress=_show_progress), form)


def print_series(
    unit: str, *, period: str | None, time_zone: str | None, ticket: str | None, moment: Moment | None, form: str | None
) -> None:
    """Prints the income of each day, week or month."""
    zone = _time_zone(time_zone)
    of = _period(period, zone) if period else None
    _print(
        lambda db: income.income_series(
            db, Unit(unit), zone, of, moment=moment, ticket=ticket, progress=_show_progress
        ),
        form,
    )


def _time_zone(given: str | None) -> str:
    return given or settings(CommandConfig).report_time_zone


def _period(text: str, time_zone: str) -> Period:
    try:
        return Period.parse(text, time_zone)
    except NoPeriod as problem:
        raise click.BadParameter(str(problem), param_hint="period") from None


def _print(make: Make, form: str | None) -> None:
    async def answer(database: Database) -> None:
        async for part in FORMS[form](await make(database)):
            click.echo(part, nl=False)

    try:
        ask(answer, timeout_s=LONG_S)
    except (MomentInFuture, TooManyPeriods, UnknownTicket) as problem:
        raise Failure(str(problem)) from None


def _show_progress(done: int, total: int) -> None:
    """Shows a person at a terminal how much of a long journal has been read."""
    if total >= SHOWN_FROM and sys.stderr.isatty():
        click.echo(f"\rreading the journal: {100 * done // total} % ", nl=done == total, err=True)

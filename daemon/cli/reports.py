"""What `donationd report` does."""

import json
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC
from typing import TypeVar

import click

from daemon.api.config import CommandConfig
from daemon.cli.arguments import Failure
from daemon.cli.database import LONG_S, ask
from daemon.cli.settings import settings
from daemon.ledger.reader import Moment
from daemon.reports import closings, income, payouts, statistics
from daemon.reports.closings import CannotClose, Closing, NotClosed
from daemon.reports.entry_sums import MomentInFuture
from daemon.reports.income import TooManyPeriods
from daemon.reports.payouts import UnknownPayout
from daemon.reports.periods import NoPeriod, Period, Unit
from daemon.reports.presentation import Report, as_csv, as_json, as_text
from daemon.reports.statistics import Selection
from daemon.reports.tickets import UnknownTicket
from sql.database import Database

FORMS = {None: as_text, "json": as_json, "csv": as_csv}
SHOWN_FROM = 200_000  # entries: a second's work

T = TypeVar("T")


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


def close(*, period: str, time_zone: str | None, moment: Moment | None, actor: str, as_json: bool) -> None:
    """Closes a period, and prints what was kept and how to print the report again."""
    of = _period(period, _time_zone(time_zone))
    closing = _ask(lambda db: closings.close(db, of, actor, moment=moment, progress=_show_progress))
    if as_json:
        click.echo(json.dumps(_closing_json(closing)))
        return
    click.echo(_closing_line(closing))
    click.echo(f"its SHA-256 is that of: donationd {_report_command(closing)}", err=True)


def print_closed(period: str | None, *, as_json: bool) -> None:
    """Prints every version of the closed periods, or of one of them."""
    found = _ask(lambda db: closings.closings(db, period and period.upper()))
    for closing in found:
        click.echo(json.dumps(_closing_json(closing)) if as_json else _closing_line(closing))
    if not found:
        click.echo("no such period has been closed" if period else "no period has been closed", err=True)


def print_restated(
    *, period: str, time_zone: str | None, version: int | None, moment: Moment | None, form: str | None
) -> None:
    """Prints a closed period as it was filed, and as it is; fails if the journal does not give what was filed."""
    of = _period(period, _time_zone(time_zone))
    report = _print(lambda db: closings.restated(db, of, version=version, moment=moment, progress=_show_progress), form)
    if not report.head["filedConfirmed"]:
        raise Failure(
            f"the journal's entries up to {report.head['filedSeq']} do not give the report that was filed: "
            f"its SHA-256 was {report.head['filedSha256']}"
        )


def _closing_line(closing: Closing) -> str:
    return (
        f"{closing.period} in {closing.time_zone}, version {closing.version}: closed at entry {closing.seq} "
        f"by {closing.closed_by} at {closing.closed_at.astimezone(UTC):%Y-%m-%d %H:%M}, SHA-256 {closing.sha256}"
    )


def _closing_json(closing: Closing) -> dict[str, object]:
    return {
        "period": closing.period,
        "timeZone": closing.time_zone,
        "version": closing.version,
        "seq": closing.seq,
        "feesSeq": closing.fees_seq,
        "sha256": closing.sha256,
        "release": closing.release,
        "tzdata": closing.tzdata,
        "closedAt": closing.closed_at.astimezone(UTC).isoformat(),
        "closedBy": closing.closed_by,
    }


def _report_command(closing: Closing) -> str:
    moment = Moment(closing.seq, None, closing.fees_seq).text
    return f"report income --period {closing.period} --tz {closing.time_zone} --as-of {moment} --json"


def print_payouts(*, period: str | None, payout: str | None, time_zone: str | None, form: str | None) -> None:
    """Prints payouts with their transactions; fails if one does not add up."""
    zone = _time_zone(time_zone)
    of = _period(period, zone) if period else None
    report = _print(lambda db: payouts.payouts(db, zone, of, payout), form)
    if report.head["wrongPayouts"]:
        raise Failure(f"{report.head['wrongPayouts']} payouts are not the sum of their transactions")


def print_summary(*, period: str | None, time_zone: str | None, ticket: str | None, form: str | None) -> None:
    """Prints number, sums, averages and donors of the paid donations."""
    selection = _selection(period, time_zone, ticket)
    _print(lambda db: statistics.summary(db, selection), form)


def print_tickets(*, period: str | None, time_zone: str | None, form: str | None) -> None:
    """Prints what was given for each ticket."""
    selection = _selection(period, time_zone)
    _print(lambda db: statistics.tickets(db, selection), form)


def print_donors(
    *, period: str | None, time_zone: str | None, ticket: str | None, by_donations: bool, limit: int, form: str | None
) -> None:
    """Prints the largest or the most frequent donors, by hash."""
    selection = _selection(period, time_zone, ticket)
    _print(lambda db: statistics.donors(db, selection, limit=limit, by_donations=by_donations), form)


def _selection(period: str | None, time_zone: str | None, ticket: str | None = None) -> Selection:
    zone = _time_zone(time_zone)
    return Selection(zone, _period(period, zone) if period else None, ticket)


def _time_zone(given: str | None) -> str:
    return given or settings(CommandConfig).report_time_zone


def _period(text: str, time_zone: str) -> Period:
    try:
        return Period.parse(text, time_zone)
    except NoPeriod as problem:
        raise click.BadParameter(str(problem), param_hint="period") from None


def _print(make: Callable[[Database], Awaitable[Report]], form: str | None) -> Report:
    """Prints a report in one of its forms, and returns it."""

    async def answer(database: Database) -> Report:
        report = await make(database)
        async for part in FORMS[form](report):
            click.echo(part, nl=False)
        return report

    return _ask(answer)


def _ask(question: Callable[[Database], Awaitable[T]]) -> T:
    """What a question returns; what a person can do about its errors is exit status 1."""
    try:
        return ask(question, timeout_s=LONG_S)
    except (CannotClose, MomentInFuture, NotClosed, TooManyPeriods, UnknownPayout, UnknownTicket) as problem:
        raise Failure(str(problem)) from None


def _show_progress(done: int, total: int) -> None:
    """Shows a person at a terminal how much of a long journal has been read."""
    if total >= SHOWN_FROM and sys.stderr.isatty():
        click.echo(f"\rreading the journal: {100 * done // total} % ", nl=done == total, err=True)

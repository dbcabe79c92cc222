"""`donationd`: one thin function per command (SPEC 8). Exit status 0 done, 1 the work failed, 2 wrong usage."""

import asyncio
import json
import os
import re
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import TypeVar

import click
import psycopg2

from daemon import money, payment_lives, simulate, up
from daemon.facts import TICKET_PATTERN
from daemon.ledger import Cursor, Ledger
from health_sidecar import gate
from sql import load, migrate
from sql.database import Database, DatabaseDown, Row

T = TypeVar("T")
PAGE = 1000


class Failure(click.ClickException):
    """The work failed: one clear sentence, exit status 1."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="donationd")
def main() -> None:
    """A supervised ledger of Stripe donations.

    Commands for people use the embedded database of this folder while `donationd up --embedded` runs here and
    DATABASE_URL is not set.

    \b
    Examples:
      donationd up --embedded
      donationd tickets add story-1 --title "A new roof"
      donationd simulate --payments 20
      donationd ledger story-1
    """


@main.command("up")
@click.option("--embedded", is_flag=True, help="Bring a PostgreSQL of its own, in .donationd/, and migrate it.")
def up_command(embedded: bool) -> None:
    """Run everything under supervisord, in the foreground.

    \b
    Examples:
      donationd up --embedded
      DATABASE_URL=postgresql://… STRIPE_WEBHOOK_SECRET=whsec_… donationd up
    """
    sys.exit(up.up(embedded))


@main.command("migrate")
@click.option("--status", is_flag=True, help="Only say what is missing; exit status 1 if anything is.")
def migrate_command(status: bool) -> None:
    """Bring the schema up to date, under a lock.

    Uses MIGRATE_DATABASE_URL (the role that owns the schema), else DATABASE_URL.

    \b
    Examples:
      donationd migrate
      donationd migrate --status
    """
    url = os.environ.get("MIGRATE_DATABASE_URL") or os.environ.get("DATABASE_URL")
    if not url:
        raise Failure("set MIGRATE_DATABASE_URL or DATABASE_URL to postgresql://user@host/database")
    if not url.startswith("postgresql://"):
        raise Failure("the database's URL must start with postgresql://")
    try:
        if status:
            sys.exit(_say_drift(migrate.drift(url)))
        applied = migrate.apply(url, click.echo)
    except migrate.MigrationError as error:
        raise Failure(str(error)) from None
    except psycopg2.Error as error:
        raise Failure(f"the database refused: {str(error).strip().splitlines()[0]}") from None
    click.echo(f"{len(applied)} applied; the schema is up to date" if applied else "the schema is up to date")


def _say_drift(drift: migrate.Drift) -> int:
    for what, names in (("missing", drift.missing), ("edited", drift.edited), ("unknown", drift.unknown)):
        for name in names:
            click.echo(f"{what}: {name}")
    if drift.missing or drift.edited:
        return 1
    click.echo("the schema is up to date")
    return 0


@main.command("gate")
def gate_command() -> None:
    """Run the startup gate once and say what it found.

    \b
    Example:
      DATABASE_URL=postgresql://… donationd gate
    """
    sys.exit(gate.run_once(os.environ))


@main.group()
def tickets() -> None:
    """The tickets that donations are for.

    \b
    Examples:
      donationd tickets add story-1 --title "A new roof" --currency EUR
      donationd tickets list --json
    """


def _ticket(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if not re.fullmatch(TICKET_PATTERN, value):
        raise click.BadParameter("1 to 64 letters, digits, dots, dashes and underscores")
    return value


def _currency(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    if not money.CURRENCY.fullmatch(value.upper()):
        raise click.BadParameter("three letters, such as EUR")
    return value.upper()


def _title(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and (len(value) > 200 or not value.isprintable()):
        raise click.BadParameter("at most 200 characters, none of them a control character")
    return value


@tickets.command("add")
@click.argument("ticket", metavar="ID", callback=_ticket)
@click.option("--title", callback=_title, help="What people see; at most 200 characters.")
@click.option("--currency", callback=_currency, help="Its own currency; without it DEFAULT_CURRENCY.")
def tickets_add(ticket: str, title: str | None, currency: str | None) -> None:
    """Add a ticket, or change a known one's title or currency.

    \b
    Example:
      donationd tickets add story-1 --title "A new roof" --currency EUR
    """
    values = {"id": ticket, "title": title, "currency": currency}
    [(is_new,)] = _ask(lambda database: database.fetch(load("add_ticket"), values))
    click.echo(f"{'added' if is_new else 'changed'} {ticket}")


@tickets.command("list")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def tickets_list(as_json: bool) -> None:
    """All tickets, oldest first.

    \b
    Example:
      donationd tickets list
    """
    rows = _ask(lambda database: database.fetch(load("list_tickets")))
    if as_json:
        keys = ("id", "title", "currency", "createdAt")
        click.echo(json.dumps([dict(zip(keys, (*r[:3], r[3].isoformat()), strict=True)) for r in rows]))
        return
    for id_, title, currency, created in rows:
        click.echo(f"{id_:<24} {currency or '-':<4} {created:%Y-%m-%d}  {title}")
    if not rows:
        click.echo('no tickets yet; add one: donationd tickets add story-1 --title "A new roof"', err=True)


@main.command()
@click.argument("ticket", callback=_ticket)
@click.option("--json", "as_json", is_flag=True, help="For programs: one JSON object per donation.")
def ledger(ticket: str, as_json: bool) -> None:
    """A ticket's donations, paid last first, and their total.

    \b
    Examples:
      donationd ledger story-1
      donationd ledger story-1 --json
    """
    known, rows, totals = _ask(lambda database: _read_ledger(Ledger(database), ticket))
    if known is None:
        raise Failure(f"there is no ticket {ticket}; add it: donationd tickets add {ticket}")
    unit = known[0] or os.environ.get("DEFAULT_CURRENCY") or "USD"
    if as_json:
        for row in rows:
            click.echo(_json_line(row, unit))
        return
    click.echo(f"Ticket: {ticket}\n\nDonations:")
    for row in rows:
        click.echo(_ledger_line(row, unit))
    for line in _total_lines(totals, unit):
        click.echo(line)


async def _read_ledger(ledger: Ledger, ticket: str) -> tuple[Row | None, list[Row], list[Row]]:
    known, totals = await ledger.ticket(ticket), await ledger.totals(ticket)
    rows: list[Row] = []
    after: Cursor | None = None
    while page := await ledger.page(ticket, limit=PAGE, status=None, currency=None, after=after):
        rows += page
        after = Cursor(int(page[-1][12]), int(page[-1][13]), page[-1][0])
    return known, rows, totals


def _ledger_line(row: Row, unit: str) -> str:
    """`[2024-12-16 10:31] $50.00 - Smith (US) - PAID`, as the original design's section 9.2 shows it."""
    _id, amount, currency, status, last_name, country, created, paid, refunded_at = row[:9]
    line = f"[{_minute(paid or created)}] {money.display(amount or 0, currency or unit)} - {last_name or 'Anonymous'}"
    if country:
        line += f" ({country})"
    line += f" - {status}"
    return f"{line} (refund: {_minute(refunded_at)})" if refunded_at else line


def _minute(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"


def _total_lines(totals: list[Row], unit: str) -> list[str]:
    """One line per currency. Every donation with a paidAt counts as paid."""
    lines = []
    for _own, currency, paid, refunded, disputed, n_paid, n_refunded, n_disputed, _n_partial, *_last in totals:
        if currency:
            net = money.display(paid - refunded - disputed, currency)
            line = f"Total: {net} ({n_paid + n_refunded + n_disputed} paid, {n_refunded} refunded"
            lines.append(f"{line}, {n_disputed} disputed)" if n_disputed else f"{line})")
    return ["", *(lines or [f"Total: {money.display(0, unit)} (0 paid, 0 refunded)"])]


def _json_line(row: Row, unit: str) -> str:
    id_, amount, currency, status, last_name, country, created, paid, refunded_at, session, refunded, disputed = row[
        :12
    ]
    unit = currency or unit
    return json.dumps(
        {
            "id": id_,
            "amount": money.major(amount or 0, unit),
            "currency": unit,
            "status": status,
            "donor": last_name or "Anonymous",
            "country": country,
            "createdAt": created.astimezone(UTC).isoformat(),
            "paidAt": paid and paid.astimezone(UTC).isoformat(),
            "refundedAt": refunded_at and refunded_at.astimezone(UTC).isoformat(),
            "sessionId": session,
            "refundedAmount": money.major(refunded, unit),
            "disputedAmount": money.major(disputed, unit),
        }
    )


@main.command("simulate")
@click.option("--payments", type=click.IntRange(1, 1_000_000), default=20, show_default=True)
@click.option("--seed", type=int, help="The same seed plays the same payments; without it new ones.")
@click.option("--url", help="The API's address; without it http://HOST:PORT.")
def simulate_command(payments: int, seed: int | None, url: str | None) -> None:
    """Play payment lives as signed Stripe events against a running API.

    Paid, refunded, disputed, expired, and without a ticket; out of order and with duplicates. The events are signed
    with STRIPE_WEBHOOK_SECRET and go to the tickets there are.

    \b
    Examples:
      donationd simulate --payments 20
      donationd simulate --payments 1000 --seed 7 --url http://127.0.0.1:3003
    """
    environ = _environ()
    secret = environ.get("STRIPE_WEBHOOK_SECRET", "").split(",")[0].strip()
    if not secret:
        raise Failure("set STRIPE_WEBHOOK_SECRET to the API's signing secret, or start `donationd up --embedded` here")
    names = [row[0] for row in _ask(lambda database: database.fetch(load("list_tickets")))]
    if not names:
        raise Failure('there are no tickets yet; add one: donationd tickets add story-1 --title "A new roof"')
    host = environ.get("HOST") or "127.0.0.1"
    base = url or f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{environ.get('PORT') or 3003}"  # noqa: S104
    chosen = seed if seed is not None else time.time_ns() % 2**31
    livemode = (environ.get("STRIPE_LIVEMODE") or "true").lower() not in ("false", "0", "no", "off")
    lives = payment_lives.lives(chosen, payments, names, livemode=livemode, now=int(time.time()))
    outcome = asyncio.run(simulate.play(base, secret, payment_lives.shuffled(lives, chosen), progress=_progress))
    click.echo(err=True)
    click.echo(
        f"{payments} payments (seed {chosen}), {outcome.total} deliveries: {outcome.applied} applied, "
        f"{outcome.duplicate} seen before, {outcome.ignored} without effect, {outcome.refused} refused, "
        f"{outcome.undelivered} not delivered"
    )
    click.echo(f"next: donationd ledger {names[0]}", err=True)
    if outcome.interrupted:
        sys.exit(130)
    if outcome.refused or outcome.undelivered:
        raise Failure(
            f"not every event was taken (replies: {outcome.replies}); is the API at {base} running and ready?"
        )


def _progress(outcome: simulate.Outcome) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{outcome.total - outcome.remaining} of {outcome.total} delivered", nl=False, err=True)


def _environ() -> Mapping[str, str]:
    """The environment; without DATABASE_URL that of the embedded instance running here, saying so."""
    if os.environ.get("DATABASE_URL"):
        return os.environ
    embedded = up.embedded_environ()
    if embedded is None:
        raise Failure("set DATABASE_URL to postgresql://user@host/database, or start `donationd up --embedded` here")
    click.echo("(using the embedded database of this folder)", err=True)
    return {**embedded, **{name: value for name, value in os.environ.items() if value}}


def _ask(question: Callable[[Database], Awaitable[T]]) -> T:
    """Asks the database one thing, from a command."""
    url = _environ().get("DATABASE_URL", "")
    if not url.startswith("postgresql://"):
        raise Failure("DATABASE_URL must start with postgresql://")

    async def answer() -> T:
        database = Database(
            url, pool_size=1, statement_timeout_s=60, connect_timeout_s=5, application_name="donationd cli"
        )
        try:
            return await question(database)
        finally:
            await database.close()

    try:
        return asyncio.run(answer())
    except DatabaseDown as error:
        raise Failure(f"{error}; `donationd gate` says more") from None
    except psycopg2.errors.UndefinedTable:
        raise Failure("the schema is not there yet; run: donationd migrate") from None


if __name__ == "__main__":
    main()

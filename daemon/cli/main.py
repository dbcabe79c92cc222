"""`donationd`: one thin function per command (SPEC 8). Exit status 0 done, 1 the work failed, 2 wrong usage."""

import asyncio
import dataclasses
import json
import os
import sys
import time
from decimal import Decimal
from typing import Any

import click
import msgspec
import psycopg2

from daemon.api.config import CommandConfig, MigrateConfig
from daemon.cli import donations as operator_cli
from daemon.cli.database import Failure, ask, read, settings, ticket_argument
from daemon.cli.failed import failed
from daemon.cli.status import status
from daemon.instance import reload, up
from daemon.ledger import money
from daemon.ledger.reader import Cursor, Figures, Ledger, PageQuery, TotalsRow
from daemon.runtime.config import Basics
from daemon.runtime.lifecycle import forbid_core_dumps
from daemon.simulator import scenarios, sender
from health_sidecar import gate
from sql import load, migrate
from sql.errors import classify

PAGE = 1000
FIRST_REPLY_S = 5.0  # of the API, before `simulate` sends anything


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
@click.option(
    "--stop-with",
    type=int,
    metavar="PID",
    help="Stop as well when this process, which started it, ends or receives a hang-up (as `make run` does).",
)
def up_command(embedded: bool, stop_with: int | None) -> None:
    """Run everything under supervisord, in the foreground.

    Ctrl-C, SIGTERM and SIGHUP stop it. Under nohup, systemd or another supervisor it goes on whatever becomes of the
    process that started it.

    \b
    Examples:
      donationd up --embedded
      DATABASE_URL=postgresql://… STRIPE_WEBHOOK_SECRET=whsec_… donationd up
    """
    sys.exit(up.up(embedded, stop_with))


@main.command("reload")
def reload_command() -> None:
    """Replace the API processes of this folder's instance, one at a time, while it goes on answering.

    For a new release; no connection is reset and no request fails. Where only one API process runs (API_PROCESSES), a
    connection that comes while that ends is reset, and others wait for the new one, about a second. A process that does
    not run is started. Interrupted at any moment, it leaves every process running.

    \b
    Example:
      donationd reload
    """
    read(Basics, os.environ)
    environment = up.running_environ()
    if environment is None:
        raise Failure("nothing runs in this folder: start it with `donationd up`")
    try:
        reload.reload(environment, click.echo)
    except reload.CannotReload as error:
        raise Failure(str(error)) from None


@main.command("migrate")
@click.option("--status", is_flag=True, help="Only say what is missing; exit status 1 if anything is.")
@click.option("--json", "as_json", is_flag=True, help="For programs: one JSON object.")
def migrate_command(status: bool, as_json: bool) -> None:
    """Bring the schema up to date, under a lock.

    Uses MIGRATE_DATABASE_URL (the role that owns the schema), else DATABASE_URL.

    \b
    Examples:
      donationd migrate
      donationd migrate --status
      donationd migrate --status --json | jq .missing
    """
    url = read(MigrateConfig, os.environ).url
    if not url:
        raise Failure("set MIGRATE_DATABASE_URL or DATABASE_URL to postgresql://user@host/database")
    if not url.startswith("postgresql://"):
        raise Failure("the database's URL must start with postgresql://")
    try:
        if status:
            sys.exit(_say_drift(migrate.drift(url), as_json=as_json))
        applied = migrate.apply(url, lambda line: click.echo(line, err=as_json))
    except migrate.MigrationError as error:
        raise Failure(str(error)) from None
    except psycopg2.Error as error:
        raise Failure(_refusal(error)) from None
    if as_json:
        click.echo(json.dumps({"applied": applied}))
    else:
        click.echo(f"{len(applied)} applied; the schema is up to date" if applied else "the schema is up to date")


def _refusal(error: psycopg2.Error) -> str:
    """The server's words on a statement; of a connection only the kind: libpq's text may repeat parts of the URL."""
    if error.pgcode:
        return f"the database refused: {str(error).strip().splitlines()[0]}"
    return f"no connection to the database ({classify(error)}); in its URL, special characters are percent-encoded"


def _say_drift(drift: migrate.Drift, *, as_json: bool) -> int:
    """Prints what `migrate --status` found; returns the exit status."""
    is_up_to_date = not (drift.missing or drift.edited)
    if as_json:
        click.echo(json.dumps({"upToDate": is_up_to_date, **dataclasses.asdict(drift)}))
        return 0 if is_up_to_date else 1
    for what, names in (("missing", drift.missing), ("edited", drift.edited), ("unknown", drift.unknown)):
        for name in names:
            click.echo(f"{what}: {name}")
    if is_up_to_date:
        click.echo("the schema is up to date")
    return 0 if is_up_to_date else 1


@main.command("gate")
@click.option("--json", "as_json", is_flag=True, help="For programs: one JSON object; the log goes to standard error.")
def gate_command(as_json: bool) -> None:
    """Run the startup gate once and say what it found.

    \b
    Examples:
      DATABASE_URL=postgresql://… donationd gate
      donationd gate --json | jq .detail
    """
    sys.exit(gate.run_once(os.environ, as_json=as_json))


@main.group()
def tickets() -> None:
    """The tickets that donations are for.

    \b
    Examples:
      donationd tickets add story-1 --title "A new roof" --currency EUR
      donationd tickets list --json
    """


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
@click.argument("ticket", metavar="ID", callback=ticket_argument)
@click.option("--title", callback=_title, help="What people see; at most 200 characters.")
@click.option("--currency", callback=_currency, help="Its own currency; without it DEFAULT_CURRENCY.")
def tickets_add(ticket: str, title: str | None, currency: str | None) -> None:
    """Add a ticket, or change a known one's title or currency.

    \b
    Example:
      donationd tickets add story-1 --title "A new roof" --currency EUR
    """
    values = {"id": ticket, "title": title, "currency": currency}
    [(is_new,)] = ask(lambda database: database.fetch(load("add_ticket"), values))
    click.echo(f"{'added' if is_new else 'changed'} {ticket}")


@tickets.command("list")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def tickets_list(as_json: bool) -> None:
    """All tickets, oldest first.

    \b
    Example:
      donationd tickets list
    """
    rows = ask(lambda database: database.fetch(load("list_tickets")))
    if as_json:
        keys = ("id", "title", "currency", "createdAt")
        click.echo(json.dumps([dict(zip(keys, (*r[:3], r[3].isoformat()), strict=True)) for r in rows]))
        return
    for id_, title, currency, created in rows:
        click.echo(f"{id_:<24} {currency or '-':<4} {created:%Y-%m-%d}  {title}")
    if not rows:
        click.echo('no tickets yet; add one: donationd tickets add story-1 --title "A new roof"', err=True)


@main.command()
@click.argument("ticket", callback=ticket_argument)
@click.option("--ids", is_flag=True, help="Also each donation's id, for `donationd assign` and `donationd erase`.")
@click.option("--json", "as_json", is_flag=True, help="For programs: one JSON object per donation.")
def ledger(ticket: str, ids: bool, as_json: bool) -> None:
    """A ticket's donations, paid last first, and their total.

    The total counts every donation that was ever paid as paid, as the API's `counts.total` does, also one that was
    refunded or disputed later.

    \b
    Examples:
      donationd ledger story-1
      donationd ledger story-1 --ids
      donationd ledger story-1 --json
    """
    unit = settings(CommandConfig).default_currency
    donations, totals = ask(lambda database: _read_ledger(Ledger(database), ticket, unit))
    if as_json:
        for donation in donations:
            click.echo(bytes(donation))
        return
    click.echo(f"Ticket: {ticket}\n\nDonations:")
    for donation in donations:
        click.echo(_ledger_line(donation, with_id=ids))
    for line in _total_lines(totals, unit):
        click.echo(line)


_donations = msgspec.json.Decoder(list[msgspec.Raw])
_donation = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal)  # amounts stay the exact decimals that they are


async def _read_ledger(ledger: Ledger, ticket: str, unit: str) -> tuple[list[msgspec.Raw], list[TotalsRow]]:
    """All of a ticket's donations, each as the API's JSON, and its totals."""
    totals = await ledger.totals(ticket)
    donations: list[msgspec.Raw] = []
    after: Cursor | None = None
    while page := await ledger.page(PageQuery(ticket, PAGE, unit, after=after)):
        donations += _donations.decode(page.donations)
        if page.next is None:
            return donations, totals
        after = Cursor.parse(page.next)
    raise Failure(f"there is no ticket {ticket}; add it: donationd tickets add {ticket}")


def _ledger_line(as_json: msgspec.Raw, *, with_id: bool = False) -> str:
    """`[2024-12-16 10:31] $50.00 - Smith (US) - PAID`, as the original design's section 9.2 shows it.

    It has no partial refunds: those stand there with their amount.
    """
    donation = _donation.decode(as_json)
    amount = money.with_symbol(str(donation["amount"]), donation["currency"])
    line = f"[{_minute(donation['paidAt'] or donation['createdAt'])}] {amount} - {donation['donor']}"
    if donation["country"]:
        line += f" ({donation['country']})"
    line += f" - {donation['status']}"
    if donation["refundedAt"]:
        refunded = money.with_symbol(str(donation["refundedAmount"]), donation["currency"])
        is_whole = donation["refundedAmount"] == donation["amount"]
        line += f" (refund: {'' if is_whole else f'{refunded}, '}{_minute(donation['refundedAt'])})"
    return f"{line} - {donation['id']}" if with_id else line


def _minute(moment: str) -> str:
    return moment[:16].replace("T", " ")


def _total_lines(totals: list[TotalsRow], default_currency: str) -> list[str]:
    """An empty line, then one per currency, the ticket's own first as in the API's reply."""
    own = totals[0].ticket_currency or default_currency
    figures = {own: Figures()} | {row.currency: row.figures for row in totals if row.currency}
    return ["", *(_total_line(currency, of_currency) for currency, of_currency in figures.items())]


def _total_line(currency: str, figures: Figures) -> str:
    """Every donation with a paidAt counts as paid. Figures that are not in the original design are shown if not 0."""
    counts = [f"{figures.donations} paid", f"{figures.refunded} refunded"]
    others = ((figures.partially_refunded, "partially refunded"), (figures.disputed, "disputed"))
    counts += [f"{n} {name}" for n, name in others if n]
    return f"Total: {money.display(figures.net_minor, currency)} ({', '.join(counts)})"


@main.command("simulate")
@click.option("--payments", type=click.IntRange(1, 1_000_000), default=20, show_default=True)
@click.option("--seed", type=int, help="The same seed plays the same payments; without it new ones.")
@click.option("--url", help="The API's address; without it http://HOST:PORT.")
def simulate_command(payments: int, seed: int | None, url: str | None) -> None:
    """Send made-up payments as signed Stripe events to a running API.

    Paid, refunded, disputed, expired, and without a ticket; out of order and with duplicates. The events are signed
    with STRIPE_WEBHOOK_SECRET and go to the tickets there are. A ledger in live mode (STRIPE_LIVEMODE) is refused.

    \b
    Examples:
      donationd simulate --payments 20
      donationd simulate --payments 1000 --seed 7 --url http://127.0.0.1:3003
    """
    config = settings(CommandConfig)
    if config.stripe_livemode:
        raise Failure(
            "this ledger is in live mode, and made-up payments do not belong in it: for a trial use another database, "
            "with STRIPE_LIVEMODE=false for the API and for this command (`donationd up --embedded` has it by itself)"
        )
    if not config.signing_secrets:
        raise Failure("set STRIPE_WEBHOOK_SECRET to the API's signing secret, or start `donationd up --embedded` here")
    names = [row[0] for row in ask(lambda database: database.fetch(load("list_tickets")))]
    if not names:
        raise Failure('there are no tickets yet; add one: donationd tickets add story-1 --title "A new roof"')
    host = "127.0.0.1" if config.host == "0.0.0.0" else config.host  # noqa: S104 - the address of every interface
    base = url or f"http://{host}:{config.port}"
    if reason := asyncio.run(sender.no_reply_reason(base, FIRST_REPLY_S)):
        raise Failure(
            f"no API replies at {base} ({reason}): start it there with `donationd up`, or name its address with --url"
        )
    chosen = seed if seed is not None else time.time_ns() % 2**31
    lives = scenarios.generate(chosen, payments, names, now=int(time.time()))
    outcome = asyncio.run(
        sender.deliver(base, config.signing_secrets[0], scenarios.shuffled(lives, chosen), progress=_progress)
    )
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


def _progress(outcome: sender.Outcome) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{outcome.total - outcome.remaining} of {outcome.total} delivered", nl=False, err=True)


for command in (status, failed, *operator_cli.COMMANDS):
    main.add_command(command)


def run() -> None:
    """The console command: Ctrl-C ends it with 130, and a reader that has seen enough (`| head`) with 0."""
    forbid_core_dumps()
    try:
        status = main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except click.Abort as abort:
        click.echo("interrupted" if isinstance(abort.__cause__, KeyboardInterrupt) else "nothing was done", err=True)
        status = 130 if isinstance(abort.__cause__, KeyboardInterrupt) else 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    sys.exit(status)


if __name__ == "__main__":
    run()

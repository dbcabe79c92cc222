"""`donationd`'s commands for money without a ticket, for a donor's data, and for checking the ledger."""

import getpass
import json
import re
import sys
import time
from collections.abc import Iterator

import click
import msgspec

from daemon.api.config import CommandConfig
from daemon.cli.database import Failure, ask, database_url, minute, settings, ticket_argument
from daemon.ledger import money, operator_actions, privacy
from daemon.ledger.facts import ID_PATTERN, Facts, owners
from daemon.ledger.reader import Ledger
from daemon.ledger.rebuild import count_rows, rebuild, set_wrong_totals
from daemon.ledger.recorder import Recorder
from daemon.ledger.verification import verify
from sql import load
from sql.connection import Row
from sql.database import Database
from sql.errors import DatabaseUnavailable, StatementRejected
from sql.snapshot import snapshot

LONG_S = 3600.0  # for statements that read the whole ledger
STRIPE_KEEPS_DAYS = 30  # https://docs.stripe.com/api/events: older ones can't be delivered again
MOST_ROWS = 1_000_000
WHERE_IDS_ARE = (
    "`donationd ledger TICKET --ids` and `donationd unassigned` show ids, and Stripe's dashboard has them too (pi_…)"
)
PRUNE_ROWS = 20_000  # per statement: some tenths of a second


@click.command()
@click.option("--limit", type=click.IntRange(1, MOST_ROWS), default=100, show_default=True, help="How many at most.")
@click.option("--json", "as_json", is_flag=True, help="For programs: one JSON object per donation.")
def unassigned(limit: int, as_json: bool) -> None:
    """Paid donations that name no ticket, or none that we know; paid last first.

    \b
    Examples:
      donationd unassigned
      donationd unassigned --json --limit 10000
    """
    rows, total = ask(lambda database: _read_unassigned(database, limit))
    for id_, ticket, amount, currency, status, paid_at in rows:
        shown = money.display(amount or 0, currency or "???")
        if as_json:
            number = msgspec.Raw(money.major(amount or 0, currency or "").encode())
            row = {"id": id_, "ticket": ticket, "amount": number, "currency": currency, "status": status}
            click.echo(msgspec.json.encode({**row, "paidAt": paid_at}))
        else:
            click.echo(f"[{minute(paid_at)}] {id_:<30} {shown:>14}  {status:<9} {ticket or '-'}")
    click.echo(f"{len(rows)} of {total} unassigned donations", err=True)
    if rows:
        click.echo(f"next: donationd assign {rows[0][0]} TICKET", err=True)


async def _read_unassigned(database: Database, limit: int) -> tuple[list[Row], int]:
    rows = await database.fetch(load("list_unassigned"), {"limit": limit})
    [(total, _failed)] = await database.fetch(load("count_backlog"))
    return rows, total


def _object_id(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not re.fullmatch(ID_PATTERN, value):
        raise click.BadParameter(f"the id of a PaymentIntent, Checkout Session or charge; {WHERE_IDS_ARE}")
    return value


def _actor(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str:
    try:
        actor = (value if value is not None else getpass.getuser()).strip()
    except (KeyError, OSError):
        raise click.BadParameter("this user has no name here: say who you are") from None
    if not (actor and actor.isprintable() and len(actor) <= operator_actions.ACTOR_LIMIT):
        raise click.BadParameter(f"1 to {operator_actions.ACTOR_LIMIT} printable characters")
    return actor


json_option = click.option("--json", "as_json", is_flag=True, help="For programs: one JSON object.")
by_option = click.option(
    "--by", "actor", callback=_actor, help="Who does this, for the record; without it your user name."
)


@click.command()
@click.argument("donation", callback=_object_id)
@click.argument("ticket", callback=ticket_argument)
@by_option
@json_option
def assign(donation: str, ticket: str, actor: str, as_json: bool) -> None:
    """Move a donation to a ticket, whatever its events name; later events of it follow.

    DONATION is the id of a PaymentIntent, Checkout Session or charge, as `donationd unassigned`,
    `donationd ledger TICKET --ids` and Stripe's dashboard show it. The last assignment counts; who and when is on
    record (`donationd acts`).

    \b
    Example:
      donationd assign pi_3PqXb2Lkd story-1 --by alex
    """
    act = ask(lambda database: _assign(database, donation, ticket, actor), sends_donor_data=True)
    if as_json:
        row = {"donation": act.donation, "ticket": ticket, "by": actor, "at": act.at.isoformat()}
        click.echo(json.dumps(row))
    else:
        click.echo(f"assigned {act.donation} to {ticket}")


async def _assign(database: Database, donation: str, ticket: str, actor: str) -> operator_actions.OperatorAction:
    ledger = Ledger(database)
    if not await ledger.has_ticket(ticket):
        raise Failure(f"there is no ticket {ticket}; add it: donationd tickets add {ticket}")
    act = operator_actions.assign(await _facts_of(ledger, donation), donation, ticket, actor=actor, at_us=_now_us())
    await Recorder(database).record([act])
    return act


async def _facts_of(ledger: Ledger, donation: str) -> Facts:
    facts = await ledger.facts_of(donation)
    if facts is None or donation not in owners(facts):
        raise Failure(f"there is no donation {donation}; {WHERE_IDS_ARE}")
    return facts


def _now_us() -> int:
    return time.time_ns() // 1000


@click.command()
@click.argument("donation", required=False, callback=_object_id)
@click.option("--email", is_flag=True, help="All donations of one e-mail, which is read from the terminal.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@by_option
@json_option
def erase(donation: str | None, email: bool, yes: bool, actor: str, as_json: bool) -> None:
    """Take a donor's last name, country and e-mail hash away for good.

    DONATION is the id of a PaymentIntent, Checkout Session or charge, as `donationd ledger TICKET --ids`,
    `donationd unassigned` and Stripe's dashboard show it.

    No total changes, and no later delivery brings them back. The e-mail is neither shown nor kept: it is hashed with
    DONOR_EMAIL_HASH_KEY if that is set, and without it too.

    \b
    Examples:
      donationd erase pi_3PqXb2Lkd
      donationd erase --email
    """
    if (donation is None) is not email:
        raise click.UsageError("name a donation, or say --email")
    hashes = _read_email_hashes() if email else []
    found = ask(lambda database: _to_erase(Ledger(database), donation, hashes), timeout_s=LONG_S, sends_donor_data=True)
    if not found:
        raise Failure("no donation has this e-mail")
    if not yes:
        named = ", ".join(sorted(found)[:5]) + (", …" if len(found) > 5 else "")
        click.confirm(f"Erase the donor of {len(found)} donation(s): {named}?", abort=True, err=True)
    at_us = _now_us()
    done = [operator_actions.erase(facts, id_, actor=actor, at_us=at_us) for id_, facts in found.items()]
    ask(lambda database: Recorder(database).record(done), timeout_s=LONG_S, sends_donor_data=True)
    if as_json:
        ids = sorted(act.donation for act in done)
        click.echo(json.dumps({"donations": ids, "by": actor, "at": done[0].at.isoformat()}))
    else:
        click.echo(f"erased the donor of {len(done)} donation(s)")


def _read_email_hashes() -> list[str]:
    """Both hashes of an e-mail: with the key, and without it, as rows from before the key have it."""
    key = settings(CommandConfig).hash_key
    if not key:
        click.echo("(DONOR_EMAIL_HASH_KEY is not set here: only hashes made without it can be found)", err=True)
    if sys.stdin.isatty():
        email = click.prompt("E-mail", hide_input=True, err=True)
    else:
        email = sys.stdin.buffer.readline().decode("utf-8", "replace")
    hashes = {privacy.email_hash(email, key), privacy.email_hash(email, None)}
    known = sorted(each for each in hashes if each)
    if not known:
        raise click.UsageError("no e-mail was given")
    return known


async def _to_erase(ledger: Ledger, donation: str | None, hashes: list[str]) -> dict[str, Facts]:
    if donation is not None:
        facts = await _facts_of(ledger, donation)
        return {owners(facts)[donation]: facts}
    found = await ledger.facts_with(hashes)
    return {id_: facts for facts in found for id_ in operator_actions.donations_with(facts, hashes)}


@click.command("acts")
@click.option("--limit", type=click.IntRange(1, MOST_ROWS), default=100, show_default=True, help="How many at most.")
@click.option("--json", "as_json", is_flag=True, help="For programs: one JSON object per act.")
def acts_command(limit: int, as_json: bool) -> None:
    """What operators did to donations and events, and when; newest first.

    \b
    Example:
      donationd acts --limit 10
    """
    for at, actor, action, donation, event, detail in ask(
        lambda database: database.fetch(load("list_acts"), {"limit": limit})
    ):
        if as_json:
            act = {"at": at.isoformat(), "by": actor, "action": action, "donation": donation, "event": event}
            click.echo(json.dumps({**act, "detail": detail}))
        else:
            click.echo(f"[{minute(at)}] {actor:<16} {action:<7} {donation or event} {detail}".rstrip())


@click.command("verify")
@click.option("--json", "as_json", is_flag=True, help="For programs: one JSON object per difference.")
def verify_command(as_json: bool) -> None:
    """Recompute every donation and every total from the facts, and report each difference.

    It only reports, and runs beside live traffic, on a snapshot. Exit status 1 if anything differs. Rows that an older
    release derived by other rules differ until `donationd rebuild` has derived them again.

    \b
    Examples:
      donationd verify
      donationd verify --json
    """
    found = 0
    for line in _differences(database_url()):
        found += 1
        click.echo(json.dumps({"difference": line}) if as_json else line)
    if older := ask(count_rows, timeout_s=LONG_S):
        click.echo(f"{older} rows were derived by older rules; run: donationd rebuild", err=True)
    if found:
        raise Failure(f"{found} differences between the ledger and its facts")
    click.echo("the ledger and its facts agree", err=as_json)


def _differences(url: str) -> Iterator[str]:
    try:
        with snapshot(url, "donationd verify") as moment:
            [(donations, _objects)] = moment.rows("verify_size")
            with click.progressbar(length=donations, label="verifying", file=sys.stderr) as bar:
                yield from verify(moment, bar.update)
    except (DatabaseUnavailable, StatementRejected) as error:
        raise Failure(f"{error}; `donationd gate` says more") from None


@click.command("rebuild")
@click.option("--json", "as_json", is_flag=True, help="For programs: one JSON object at the end.")
def rebuild_command(as_json: bool) -> None:
    """Derive the rows again that an older release derived, by the rules of this one.

    Run it after an upgrade that changed a rule, when all processes run the new release. It runs beside live traffic,
    some hundred rows at a time. Ctrl-C loses nothing: the next run goes on with the rows that are left. Rows that are
    up to date are not touched. Totals that are not what the rows add up to are set right.

    \b
    Examples:
      donationd rebuild
      donationd rebuild --json
    """
    with click.progressbar(length=ask(count_rows), label="rebuilding", file=sys.stderr) as bar:
        rebuilt = ask(lambda database: rebuild(database, bar.update), timeout_s=LONG_S, sends_donor_data=True)
    tickets = ask(set_wrong_totals, timeout_s=LONG_S)
    if as_json:
        click.echo(json.dumps({"rebuilt": rebuilt, "totalsSet": tickets}))
        return
    click.echo(f"derived {rebuilt} rows again")
    for ticket in tickets:
        click.echo(f"set the totals of {f'ticket {ticket}' if ticket else 'donations without a ticket'}")


@click.command()
@click.option(
    "--days",
    type=click.IntRange(STRIPE_KEEPS_DAYS, 36_500),
    default=90,
    show_default=True,
    help=f"Keep this many; at least {STRIPE_KEEPS_DAYS}, as long as Stripe can deliver an event again.",
)
@json_option
def prune(days: int, as_json: bool) -> None:
    """Drop the rows of events applied long ago. No donation and no total changes, nor would one by a redelivery.

    Runs beside live traffic, some thousand rows at a time; Ctrl-C loses nothing. Events that failed stay.

    \b
    Example:
      donationd prune --days 45
    """
    dropped = ask(lambda database: _prune(database, days), timeout_s=LONG_S)
    if as_json:
        click.echo(json.dumps({"dropped": dropped, "days": days}))
    else:
        click.echo(f"dropped {dropped} events older than {days} days")


async def _prune(database: Database, days: int) -> int:
    dropped = 0
    while True:
        [(some,)] = await database.fetch(load("prune_events"), {"days": days, "limit": PRUNE_ROWS})
        if not some:
            return dropped
        dropped += int(some)
        if sys.stderr.isatty():
            click.echo(f"\r{dropped} dropped ", nl=False, err=True)


COMMANDS = (unassigned, assign, erase, acts_command, verify_command, rebuild_command, prune)

"""What `donationd unassigned`, `assign`, `erase` and `audit` do."""

import json
import sys
import time

import click
import msgspec

from daemon.api.config import CommandConfig
from daemon.cli.arguments import WHERE_IDS_ARE, Failure
from daemon.cli.database import LONG_S, ask, minute
from daemon.cli.settings import settings
from daemon.ledger import money, operator_actions, privacy
from daemon.ledger.facts import Facts, owners
from daemon.ledger.reader import Ledger
from daemon.ledger.recorder import Recorder
from sql import load
from sql.connection import Row
from sql.database import Database


def print_unassigned(limit: int, *, as_json: bool) -> None:
    """Prints the paid donations without a ticket."""
    rows, total = ask(lambda database: _read_unassigned(database, limit))
    for id_, ticket, amount, currency, status, paid_at in rows:
        if as_json:
            number = msgspec.Raw(money.major(amount or 0, currency or "").encode())
            row = {"id": id_, "ticket": ticket, "amount": number, "currency": currency, "status": status}
            click.echo(msgspec.json.encode({**row, "paidAt": paid_at}))
        else:
            shown = money.display(amount or 0, currency or "???")
            click.echo(f"[{minute(paid_at)}] {id_:<30} {shown:>14}  {status:<9} {ticket or '-'}")
    click.echo(f"{len(rows)} of {total} unassigned donations", err=True)
    if rows:
        click.echo(f"next: donationd assign {rows[0][0]} TICKET", err=True)


async def _read_unassigned(database: Database, limit: int) -> tuple[list[Row], int]:
    rows = await database.fetch(load("list_unassigned"), {"limit": limit})
    [(total, _failed)] = await database.fetch(load("count_backlog"))
    return rows, total


def assign(donation: str, ticket: str, actor: str, *, as_json: bool) -> None:
    """Moves a donation to a ticket and prints what was done."""
    action = ask(lambda database: _assign(database, donation, ticket, actor), sends_donor_data=True)
    if as_json:
        row = {"donation": action.donation, "ticket": ticket, "by": actor, "at": action.at.isoformat()}
        click.echo(json.dumps(row))
    else:
        click.echo(f"assigned {action.donation} to {ticket}")


async def _assign(database: Database, donation: str, ticket: str, actor: str) -> operator_actions.OperatorAction:
    ledger = Ledger(database)
    if not await ledger.has_ticket(ticket):
        raise Failure(f"there is no ticket {ticket}; add it: donationd tickets add {ticket}")
    action = operator_actions.assign(await _facts_of(ledger, donation), donation, ticket, actor=actor, at_us=_now_us())
    await Recorder(database).record([action])
    return action


async def _facts_of(ledger: Ledger, donation: str) -> Facts:
    facts = await ledger.facts_of(donation)
    if facts is None or donation not in owners(facts):
        raise Failure(f"there is no donation {donation}; {WHERE_IDS_ARE}")
    return facts


def erase(donation: str | None, *, asked: bool, actor: str, as_json: bool) -> None:
    """Erases the donor of one donation, or, with None, of all donations of an e-mail that is read from the terminal."""
    hashes = _read_email_hashes() if donation is None else []
    found = ask(lambda database: _to_erase(Ledger(database), donation, hashes), timeout_s=LONG_S, sends_donor_data=True)
    if not found:
        raise Failure("no donation has this e-mail")
    if asked:
        named = ", ".join(sorted(found)[:5]) + (", …" if len(found) > 5 else "")
        click.confirm(f"Erase the donor of {len(found)} donation(s): {named}?", abort=True, err=True)
    at_us = _now_us()
    actions = [operator_actions.erase(facts, id_, actor=actor, at_us=at_us) for id_, facts in found.items()]
    ask(lambda database: Recorder(database).record(actions), timeout_s=LONG_S, sends_donor_data=True)
    if as_json:
        ids = sorted(action.donation for action in actions)
        click.echo(json.dumps({"donations": ids, "by": actor, "at": actions[0].at.isoformat()}))
    else:
        click.echo(f"erased the donor of {len(actions)} donation(s)")


def _now_us() -> int:
    return time.time_ns() // 1000


def _read_email_hashes() -> list[str]:
    """Both hashes of an e-mail: with the key, and without it as in rows that were written before there was a key."""
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


def print_actions(limit: int, *, as_json: bool) -> None:
    """Prints the operators' actions."""
    rows = ask(lambda database: database.fetch(load("list_acts"), {"limit": limit}))
    for at, actor, action, donation, event, detail in rows:
        if as_json:
            row = {"at": at.isoformat(), "by": actor, "action": action, "donation": donation, "event": event}
            click.echo(json.dumps({**row, "detail": detail}))
        else:
            click.echo(f"[{minute(at)}] {actor:<16} {action:<7} {donation or event} {detail}".rstrip())

"""What `donationd unassigned`, `timeline`, `assign`, `withdraw-consent`, `erase` and `audit` do."""

import json
from datetime import UTC, datetime
from typing import Any

import click
import msgspec

from daemon.cli.arguments import WHERE_IDS_ARE, Failure
from daemon.cli.database import LONG_S, ask
from daemon.cli.emails import read_email_hashes
from daemon.ledger import audit, money, operator_actions, queues
from daemon.ledger.donation import minute
from daemon.ledger.facts import Facts, owners
from daemon.ledger.operators import Operators, UnknownDonation, UnknownTicket
from daemon.ledger.reader import Ledger
from daemon.ledger.recorder import Recorder
from daemon.ledger.timeline import Item
from sql import load
from sql.database import Database


def print_unassigned(limit: int, *, as_json: bool) -> None:
    """Prints the paid donations without a ticket."""
    donations, total = ask(lambda database: _read_unassigned(database, limit))
    for donation in donations:
        click.echo(donation.json() if as_json else donation.text())
    click.echo(f"{len(donations)} of {total} unassigned donations", err=True)
    if donations:
        click.echo(f"next: donationd assign {donations[0].id} TICKET", err=True)


async def _read_unassigned(database: Database, limit: int) -> tuple[list[queues.UnassignedDonation], int]:
    donations = await queues.unassigned(database, limit)
    [(total, *_others)] = await database.fetch(load("count_backlog"))
    return donations, total


def print_timeline(donation: str, *, as_json: bool) -> None:
    """Prints each fact, status change and entry of a donation, in order."""
    items = ask(lambda database: Ledger(database).timeline(donation))
    if items is None:
        raise _unknown(donation)
    for item in items:
        click.echo(_timeline_json(item) if as_json else _timeline_line(item))


def _timeline_line(item: Item) -> str:
    """`2026-01-31 10:15:00  entry   payment ch_1: +$5.00, ticket story-1 (entry 7, evt_1)`"""
    time = f"{datetime.fromtimestamp(item.at, UTC):%Y-%m-%d %H:%M:%S}  {item.kind:<6}  {item.source}: "
    if (row := item.transaction) is not None:
        amount, fee = (money.display(minor, row.currency) for minor in (row.amount_minor, row.fee_minor))
        rate = f" at {row.exchange_rate}" if row.exchange_rate else ""
        return f"{time}{amount}{rate}, fee {fee}, {row.payout or 'not paid out yet'} ({row.id})"
    if (entry := item.entry) is None:
        return time + (item.name if item.value is None else f"{item.name} {_plain(item.value)}")
    amount = f"{'+' if entry.amount_minor > 0 else ''}{money.display(entry.amount_minor, entry.currency or '???')}"
    ticket = f"ticket {entry.ticket_id}" if entry.ticket_id else "no ticket"
    return f"{time}{amount}, {ticket} (entry {entry.seq}, {entry.cause})"


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _timeline_json(item: Item) -> bytes:
    row = {"at": datetime.fromtimestamp(item.at, UTC), "kind": item.kind, "source": item.source, "name": item.name}
    if item.value is not None:
        row["value"] = item.value
    if item.entry is not None:
        row["entry"] = item.entry._asdict()
    if item.transaction is not None:
        row["transaction"] = item.transaction._asdict()
    return msgspec.json.encode(row)


def assign(donation: str, ticket: str, actor: str, *, as_json: bool) -> None:
    """Moves a donation to a ticket and prints what was done."""
    try:
        action = ask(lambda database: _operators(database).assign(donation, ticket, actor=actor), sends_donor_data=True)
    except UnknownTicket:
        raise Failure(f"there is no ticket {ticket}; add it: donationd tickets add {ticket}") from None
    except UnknownDonation:
        raise _unknown(donation) from None
    if as_json:
        row = {"donation": action.donation, "ticket": ticket, "by": actor, "at": action.at.isoformat()}
        click.echo(json.dumps(row))
    else:
        click.echo(f"assigned {action.donation} to {ticket}")


def withdraw_consent(donation: str, actor: str, *, as_json: bool) -> None:
    """Ends the showing of a donor's name and prints what was done."""
    try:
        action = ask(
            lambda database: _operators(database).withdraw_consent(donation, actor=actor), sends_donor_data=True
        )
    except UnknownDonation:
        raise _unknown(donation) from None
    if as_json:
        click.echo(json.dumps({"donation": action.donation, "by": actor, "at": action.at.isoformat()}))
    else:
        click.echo(
            f"the name of {action.donation} is no longer shown; pages that are cached show it for up to a minute"
        )


def _operators(database: Database) -> Operators:
    return Operators(database, Recorder(database))


def _unknown(donation: str) -> Failure:
    return Failure(f"there is no donation {donation}; {WHERE_IDS_ARE}")


def erase(donation: str | None, *, asked: bool, actor: str, as_json: bool) -> None:
    """Erases the donor of one donation, or, with None, of all donations of an e-mail that is read from the terminal."""
    hashes = read_email_hashes() if donation is None else []
    try:
        found = ask(lambda database: _to_erase(database, donation, hashes), timeout_s=LONG_S, sends_donor_data=True)
    except UnknownDonation as unknown:
        raise _unknown(str(unknown)) from None
    if not found:
        raise Failure("no donation has this e-mail")
    if asked:
        named = ", ".join(sorted(found)[:5]) + (", …" if len(found) > 5 else "")
        click.confirm(f"Erase the donor of {len(found)} donation(s): {named}?", abort=True, err=True)
    actions = ask(
        lambda database: _operators(database).erase(found, actor=actor), timeout_s=LONG_S, sends_donor_data=True
    )
    if as_json:
        ids = sorted(action.donation for action in actions)
        click.echo(json.dumps({"donations": ids, "by": actor, "at": actions[0].at.isoformat()}))
    else:
        click.echo(f"erased the donor of {len(actions)} donation(s)")


async def _to_erase(database: Database, donation: str | None, hashes: list[str]) -> dict[str, Facts]:
    if donation is not None:
        facts = await _operators(database).facts_of(donation)
        return {owners(facts)[donation]: facts}
    found = await Ledger(database).facts_with(hashes)
    return {id_: facts for facts in found for id_ in operator_actions.donations_with(facts, hashes)}


def print_actions(limit: int, *, as_json: bool) -> None:
    """Prints the operators' actions."""
    for action in ask(lambda database: audit.actions(database, limit)):
        subject = action.donation or action.event or action.ticket or ""
        if as_json:
            click.echo(json.dumps(action._asdict() | {"at": action.at.isoformat()}))
        else:
            line = f"[{minute(action.at)}] {action.by:<16} {action.action:<7} {subject} {action.detail}"
            click.echo(line.rstrip())
    if newest := ask(audit.newest_hash):
        click.echo(f"newest hash of the audit log: {newest}", err=True)
        click.echo("note it elsewhere; later: donationd verify --audit-hash HASH", err=True)

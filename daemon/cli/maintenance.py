"""What `donationd verify`, `rebuild` and `prune` do."""

import json
import sys
from collections.abc import Iterator

import click

from daemon.cli.arguments import Failure
from daemon.cli.database import LONG_S, LedgerAddress, ask, ledger_address
from daemon.ledger import audit, verification
from daemon.ledger import rebuild as rebuilding
from sql import load
from sql.database import Database
from sql.errors import DatabaseUnavailable, StatementRejected
from sql.snapshot import snapshot

PRUNE_ROWS = 20_000  # per statement: some tenths of a second


def verify(audit_hash: str | None, *, as_json: bool) -> None:
    """Prints each difference between the ledger and its facts, and what is wrong with the audit log; fails if there is
    one."""
    found, chain = 0, audit.Chain(audit_hash)
    for line in _differences(ledger_address(), chain):
        found += 1
        click.echo(json.dumps({"difference": line}) if as_json else line)
    if older := ask(rebuilding.count_rows, timeout_s=LONG_S):
        click.echo(f"{older} rows were derived by older rules; run: donationd rebuild", err=True)
    if chain.unchained:
        click.echo(
            f"{chain.unchained} actions are not in the audit log's chain yet: the next action adds them", err=True
        )
    if found:
        raise Failure(f"{found} differences between the ledger and its facts")
    click.echo("the ledger and its facts agree", err=as_json)


def _differences(ledger: LedgerAddress, chain: audit.Chain) -> Iterator[str]:
    try:
        with snapshot(ledger.url, "donationd verify", schema=ledger.schema) as moment:
            donations = verification.stored_sizes(moment).donations
            with click.progressbar(length=donations, label="verifying", file=sys.stderr) as bar:
                yield from verification.verify(moment, bar.update)
            yield from chain.differences(audit.chained_actions(moment))
    except (DatabaseUnavailable, StatementRejected) as error:
        raise Failure(f"{error}; `donationd gate` says more") from None


def rebuild(*, as_json: bool) -> None:
    """Derives older rows again, corrects totals, and prints what changed."""
    with click.progressbar(length=ask(rebuilding.count_rows), label="rebuilding", file=sys.stderr) as bar:
        rebuilt = ask(
            lambda database: rebuilding.rebuild(database, bar.update), timeout_s=LONG_S, sends_donor_data=True
        )
    tickets = ask(rebuilding.set_wrong_totals, timeout_s=LONG_S)
    if as_json:
        click.echo(json.dumps({"rebuilt": rebuilt, "totalsSet": tickets}))
        return
    click.echo(f"derived {rebuilt} rows again")
    for ticket in tickets:
        click.echo(f"set the totals of {f'ticket {ticket}' if ticket else 'donations without a ticket'}")


def prune(days: int, *, as_json: bool) -> None:
    """Drops old events and prints how many."""
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

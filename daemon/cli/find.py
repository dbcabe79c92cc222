"""What `donationd find` does."""

from decimal import Decimal

import click
import msgspec

from daemon.api.config import CommandConfig
from daemon.cli.arguments import WHERE_IDS_ARE, Failure
from daemon.cli.database import ask
from daemon.cli.emails import read_email_hashes
from daemon.cli.settings import settings
from daemon.ledger import audit
from daemon.ledger.donation import DonationRow, ShownDonation
from daemon.ledger.search import FoundDonation, Search, search
from sql.database import Database

PAGE = 1000

_encode = msgspec.json.Encoder(decimal_format="number").encode


def print_found(query: str | None, actor: str, limit: int, *, as_json: bool) -> None:
    """Prints the donations of an object or of an e-mail hash, or, with None, of an e-mail that is read from the
    terminal; fails if there is none."""
    default_currency = settings(CommandConfig).default_currency
    queries = read_email_hashes() if query is None else [query]
    is_by_hash = Search(1, q=queries[0]).is_by_hash
    found = ask(
        lambda database: _find(database, queries, limit, actor=actor if is_by_hash else None),
        sends_donor_data=is_by_hash,
    )
    if not found:
        raise Failure(
            "no donation has this e-mail" if is_by_hash else f"no donation has the id {query}; {WHERE_IDS_ARE}"
        )
    for donation in found[:limit]:
        shown = _shown(donation, default_currency)
        click.echo(_json(donation, shown) if as_json else _line(donation, shown))
    if len(found) > limit:
        click.echo(f"there are more than these {limit}; give a larger --limit", err=True)


async def _find(database: Database, queries: list[str], limit: int, *, actor: str | None) -> list[FoundDonation]:
    """The newest donations of the queries, one more than the limit if there are more. With an actor the search is on
    record before it begins."""
    if actor is not None:
        await audit.record(database, actor, "search", "e-mail hash")
    found = [donation for query in queries for donation in await _all(database, query, limit + 1)]
    return sorted(found, key=lambda donation: (-donation.at, donation.id))[: limit + 1]


async def _all(database: Database, query: str, most: int) -> list[FoundDonation]:
    found: list[FoundDonation] = []
    after: tuple[int, str] | None = None
    while len(found) < most:
        page = await search(database, Search(min(PAGE, most - len(found)), q=query, after=after))
        found += page.donations
        if page.next is None:
            break
        after = page.next
    return found


def _shown(found: FoundDonation, default_currency: str) -> ShownDonation:
    times = (found.created_at, found.paid_at, found.refunded_at)
    created_at, paid_at, refunded_at = (None if time is None else int(time.timestamp()) for time in times)
    row = DonationRow(
        *(found.id, found.amount_minor, found.currency, found.status, found.last_name, found.country),
        *(created_at or 0, paid_at, refunded_at, found.session_id, found.refunded_minor, found.disputed_minor),
    )
    return ShownDonation.of(row, default_currency)


def _line(found: FoundDonation, shown: ShownDonation) -> str:
    """The donation as `donationd ledger` shows it, with its ticket and its id."""
    return f"{shown.text()} - {f'ticket {found.ticket}' if found.ticket else 'no ticket'} - {found.id}"


def _json(found: FoundDonation, shown: ShownDonation) -> bytes:
    """The donation as the API shows it, with its ticket."""
    row = msgspec.to_builtins(shown, builtin_types=[Decimal])
    return _encode({**row, "ticket": found.ticket, "subscription": found.subscription})

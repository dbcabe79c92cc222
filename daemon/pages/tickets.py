"""Reads what the public pages of a ticket show: everything of one page by one query, so that the figures, the lines and
the entry's number are of one moment.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from daemon.ledger.coalescer import Coalescer
from daemon.ledger.tickets import State
from sql import load
from sql.database import Queryable

NAMED = 50  # donations by name on a page: with the others in one line it stays under 50 kB
QUERY_TICKETS = 32  # pages that one query reads: some milliseconds

# Planned once per connection, by the indexes, also where PostgreSQL believes that a table is still small.
PREPARE = f"""
SET enable_seqscan = off; SET enable_bitmapscan = off;
PREPARE ticket_pages AS {load("ticket_pages")}
"""


class NamedDonation(NamedTuple):
    """A donation whose donor's name may be shown: what is left of its amount, and when it was paid, in Unix seconds."""

    name: str
    currency: str
    net_minor: int
    paid_at: int


class CurrencyTotal(NamedTuple):
    """The total in one currency, after refunds and disputes, and the number of donations that stand."""

    currency: str
    net_minor: int
    donations: int


class PublicTicket(NamedTuple):
    """What the pages of a ticket show. Two that are equal give the same pages.

    `changed_seq` is the ticket's last entry in the journal, and `changed_at` its time; None without an entry.
    """

    id: str
    title: str
    currency: str
    goal_minor: int | None
    is_open: bool
    changed_seq: int | None
    changed_at: datetime | None
    last_paid_at: datetime | None
    totals: tuple[CurrencyTotal, ...]
    named: tuple[NamedDonation, ...]
    has_more_named: bool

    @property
    def total(self) -> CurrencyTotal:
        """The total in the ticket's own currency."""
        return self.total_in(self.currency)

    def total_in(self, currency: str) -> CurrencyTotal:
        """The total in one currency, zero if no donation counts in it."""
        return next((each for each in self.totals if each.currency == currency), CurrencyTotal(currency, 0, 0))

    @property
    def others(self) -> list[CurrencyTotal]:
        """Per currency what the donations that are not among `named` add up to, so that all lines add up to the
        totals."""
        left = []
        for total in self.totals:
            named = [each.net_minor for each in self.named if each.currency == total.currency]
            rest = CurrencyTotal(total.currency, total.net_minor - sum(named), total.donations - len(named))
            if rest.net_minor or rest.donations:
                left.append(rest)
        return left


class TicketRow(NamedTuple):
    """A row of ticket_pages.sql."""

    id: str
    title: str
    currency: str | None
    goal_minor: int | None
    state: str
    changed_seq: int | None
    changed_at: int | None
    last_paid_at: int | None
    totals: str
    named: str
    ledger_seq: int


class FoundTicket(NamedTuple):
    """A public ticket, and the journal's last entry when it was read."""

    ticket: PublicTicket
    ledger_seq: int


_totals = msgspec.json.Decoder(list[CurrencyTotal])
_named = msgspec.json.Decoder(list[NamedDonation])


class Tickets:
    """Reads public tickets by a database of their own; `default_currency` is that of a ticket that names none."""

    def __init__(self, database: Queryable, default_currency: str) -> None:
        self._database = database
        self._default_currency = default_currency
        self._reads = Coalescer(self._read, QUERY_TICKETS)

    def read(self, ticket: str) -> "asyncio.Future[FoundTicket | None]":
        """A ticket as it is now; None if there is none of this id, or if it is hidden."""
        return self._reads.read(ticket)

    async def _read(self, ids: Sequence[str]) -> dict[str, FoundTicket]:
        array = ",".join(f'"{id_}"' for id_ in ids)  # an id contains neither commas nor quotes
        rows = await self._database.fetch("EXECUTE ticket_pages (%s, %s)", [f"{{{array}}}", NAMED + 1], prepare=PREPARE)
        found = map(TicketRow._make, rows)
        return {row.id: self._found(row) for row in found if row.state != State.HIDDEN}

    def _found(self, row: TicketRow) -> FoundTicket:
        named = _named.decode(row.named)
        ticket = PublicTicket(
            id=row.id,
            title=row.title or row.id,
            currency=row.currency or self._default_currency,
            goal_minor=row.goal_minor,
            is_open=row.state == State.OPEN,
            changed_seq=row.changed_seq,
            changed_at=_utc(row.changed_at),
            last_paid_at=_utc(row.last_paid_at),
            totals=tuple(_totals.decode(row.totals)),
            named=tuple(named[:NAMED]),
            has_more_named=len(named) > NAMED,
        )
        return FoundTicket(ticket, row.ledger_seq)


def _utc(seconds: int | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)

"""Reads the ledger: pages, totals, and what is held of one donation."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from daemon.ledger import money
from daemon.ledger.facts import Facts, Family, merge
from sql import load
from sql.connection import Row
from sql.database import Database

ZERO_DECIMAL, THREE_DECIMAL = sorted(money.ZERO_DECIMAL), sorted(money.THREE_DECIMAL)  # as the driver takes them
# Times have no more digits than PostgreSQL's timestamps take, and an id is one of Stripe's.
PLACE = re.compile(r"(?P<paid>-1|\d{1,12}):(?P<created>\d{1,12}):(?P<id>[A-Za-z0-9_]{1,255})", re.ASCII)


class Ledger:
    """Donations in PostgreSQL, for reading; recorder.py writes them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def facts_of(self, id_: str) -> Facts | None:
        """Everything held of the donation that this Stripe object belongs to; None if nobody has named it."""
        rows = await self._database.fetch(load("facts_of"), {"id": id_})
        if not rows:
            return None
        [(facts, failed_charge)] = rows
        return merge(facts, {Family.CHARGE: {id_: failed_charge}}) if failed_charge else facts

    async def facts_with(self, email_hashes: Iterable[str]) -> list[Facts]:
        """All facts that hold one of these e-mail hashes, of unpaid invoices too. Reads the whole ledger."""
        rows = await self._database.fetch(load("facts_with_hash"), {"patterns": [f"%{h}%" for h in email_hashes]})
        return [row[0] for row in rows]

    async def page(self, query: "PageQuery") -> "Page | None":
        """One page of a ticket's ledger; None for an unknown ticket."""
        after = query.after
        rows = await self._database.fetch(
            load("ledger_page"),
            {
                "ticket": query.ticket,
                "limit": query.limit,
                "status": query.status,
                "currency": query.currency,
                "after_paid": None if after is None or after.paid < 0 else after.paid,
                "after_created": after.created if after else None,
                "after_id": after.id if after else None,
                "default_currency": query.default_currency,
                "zero_decimal": ZERO_DECIMAL,
                "three_decimal": THREE_DECIMAL,
            },
        )
        return Page(*rows[0]) if rows else None

    async def ticket(self, ticket: str) -> Row | None:
        """The row of ticket.sql, or None for an unknown ticket."""
        rows = await self._database.fetch(load("ticket"), {"ticket": ticket})
        return rows[0] if rows else None

    async def totals(self, ticket: str) -> list[Row]:
        """Rows of ticket_totals.sql: none for an unknown ticket."""
        return await self._database.fetch(load("ticket_totals"), {"ticket": ticket})


@dataclass(frozen=True)
class Cursor:
    """A place in the ledger's order: times in Unix seconds, `paid` -1 for a donation that is not paid."""

    paid: int
    created: int
    id: str

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Reads a `Page.next`. Raises ValueError for anything else."""
        place = PLACE.fullmatch(text)
        if place is None:
            raise ValueError("not a place in the ledger")
        return cls(int(place["paid"]), int(place["created"]), place["id"])


@dataclass(frozen=True)
class PageQuery:
    """Which page of which ticket; `status` and `currency` None for all, `after` None for the first page."""

    ticket: str
    limit: int
    default_currency: str
    status: str | None = None
    currency: str | None = None
    after: Cursor | None = None


@dataclass(frozen=True)
class Page:
    """The donations as a JSON array, how many they are, and where the next page begins (None on the last one)."""

    donations: str
    count: int
    next: str | None

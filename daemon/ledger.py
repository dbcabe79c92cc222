"""Reads the ledger: pages, totals, and what is held of one donation."""

from collections.abc import Iterable
from dataclasses import dataclass

from daemon.facts import Facts
from sql import load
from sql.database import Database, Row


class Ledger:
    """Donations in PostgreSQL, for reading; recorder.py writes them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def facts_of(self, id_: str) -> Facts | None:
        """Everything held of the donation that this Stripe object belongs to; None if nobody has named it."""
        rows = await self._database.fetch(load("facts_of"), {"id": id_})
        return rows[0][0] if rows else None

    async def facts_with(self, email_hashes: Iterable[str]) -> list[Facts]:
        """The facts of all donations that hold one of these e-mail hashes. Reads the whole ledger."""
        rows = await self._database.fetch(load("facts_with_hash"), {"patterns": [f"%{h}%" for h in email_hashes]})
        return [row[0] for row in rows]

    async def page(
        self, ticket: str, *, limit: int, status: str | None, currency: str | None, after: "Cursor | None"
    ) -> list[Row]:
        """Rows of donation_page.sql: at most `limit`, after the cursor."""
        return await self._database.fetch(
            load("donation_page"),
            {
                "ticket": ticket,
                "limit": limit,
                "status": status,
                "currency": currency,
                "after_paid": None if after is None or after.paid < 0 else after.paid,
                "after_created": after.created if after else None,
                "after_id": after.id if after else None,
            },
        )

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

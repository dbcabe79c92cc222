"""Which tickets a report or an export can be about."""

from sql import load
from sql.database import Database


class UnknownTicket(Exception):
    """Nothing has this ticket; the message is for the person who asks."""


async def check_ticket(database: Database, ticket: str | None) -> None:
    """Nothing if there is such a ticket, or if a donation or an entry of the journal names it. Raises UnknownTicket."""
    if ticket is None:
        return
    [(is_known,)] = await database.fetch(load("is_ticket_known"), {"ticket": ticket})
    if not is_known:
        raise UnknownTicket(
            f"there is no ticket {ticket}, and no donation names it: `donationd tickets list` lists the tickets"
        )

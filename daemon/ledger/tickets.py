"""The tickets that donations are for: listed, added and changed."""

import re
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

from msgspec import UNSET, Struct, UnsetType, structs

from daemon.ledger import audit, money
from daemon.ledger.privacy import JOINERS
from daemon.ledger.unix_times import at_microsecond, microseconds
from sql import load
from sql.database import Database, Queryable

POSITION = re.compile(r"(?P<created>[0-9]{1,18}):(?P<id>[A-Za-z0-9._-]{1,64})", re.ASCII)
ROUNDS = 5  # each reads what another process has just written
TITLE_LENGTH = 200


class State(StrEnum):
    """What the public can do with a ticket."""

    OPEN = "open"
    CLOSED = "closed"  # nothing new is collected
    HIDDEN = "hidden"  # the public sees nothing of it


class Ticket(NamedTuple):
    """A row of list_tickets.sql. `goal_minor` is in minor units of the ticket's currency, or of the default one."""

    id: str
    title: str
    currency: str | None
    goal_minor: int | None
    state: State
    created_at: datetime

    @property
    def position(self) -> str:
        """Its position in the list."""
        return f"{microseconds(self.created_at)}:{self.id}"

    def goal(self, default_currency: str) -> str | None:
        """The goal in major units, with the decimals of its currency."""
        return None if self.goal_minor is None else money.major(self.goal_minor, self.currency or default_currency)


class TicketChange(Struct, frozen=True, kw_only=True):
    """What is to be changed; what is UNSET stays, or is as usual for a new ticket. None stands for no currency of its
    own, and for no goal. A goal is in major units."""

    title: str | UnsetType = UNSET
    currency: str | UnsetType | None = UNSET
    goal: Decimal | UnsetType | None = UNSET
    state: State | UnsetType = UNSET


class ImpossibleGoal(ValueError):
    """A goal that does not fit the ticket's currency; the message says why."""


class TicketExists(Exception):
    """A ticket that was to be new exists already."""


class ChangedMeanwhile(Exception):
    """Other processes changed the ticket again and again."""


def is_title(text: str) -> bool:
    """Whether a text can be a title: its characters are printable, or join those beside them."""
    return len(text) <= TITLE_LENGTH and "".join(c for c in text if c not in JOINERS).isprintable()


async def tickets(database: Database, limit: int | None = None, after: re.Match[str] | None = None) -> list[Ticket]:
    """Tickets, oldest first, after one that POSITION names."""
    created = at_microsecond(int(after["created"])) if after else "-infinity"
    params = {"limit": limit, "after_created": created, "after_id": after["id"] if after else ""}
    return [_ticket(row) for row in await database.fetch(load("list_tickets"), params)]


async def find(database: Queryable, id_: str) -> Ticket | None:
    """The ticket with an id; None if there is none."""
    rows = await database.fetch(load("find_ticket"), {"id": id_})
    return _ticket(rows[0]) if rows else None


async def put(
    database: Database, id_: str, change: TicketChange, *, actor: str, default_currency: str, only_new: bool = False
) -> tuple[Ticket, bool]:
    """Adds a ticket, or changes one that exists, with a row in the audit log if anything changes.

    Args:
        only_new: change no ticket that exists.

    Returns:
        The ticket, and whether it is new.

    Raises:
        ImpossibleGoal: the goal has more decimals than the currency, or the currency changes and the goal is not given.
        TicketExists: it was to be new.
        ChangedMeanwhile: try again.
    """
    for _ in range(ROUNDS):
        old = await find(database, id_)
        if old and only_new:
            raise TicketExists(id_)
        new = _changed(old or Ticket(id_, "", None, None, State.OPEN, datetime.now(UTC)), change, default_currency)
        if new == old:
            return new, False
        params = new._asdict() | {f"old_{name}": value for name, value in (old or new)._asdict().items()}
        params |= {"actor": actor, "detail": _detail(change, new, default_currency), "is_new": old is None}
        rows = await database.fetch(load("put_ticket"), params)
        if rows:
            await audit.chain_quietly(database)
            return _ticket(rows[0]), old is None
    raise ChangedMeanwhile(id_)


def _ticket(row: tuple[object, ...]) -> Ticket:
    ticket = Ticket._make(row)
    return ticket._replace(state=State(ticket.state))


def _changed(old: Ticket, change: TicketChange, default_currency: str) -> Ticket:
    given = {name: value for name, value in structs.asdict(change).items() if value is not UNSET and name != "goal"}
    new = old._replace(**given)
    currency = new.currency or default_currency
    if change.goal is UNSET:
        if old.goal_minor is not None and currency != (old.currency or default_currency):
            raise ImpossibleGoal("the ticket has a goal: give it in the new currency too")
        return new
    if change.goal is None:
        return new._replace(goal_minor=None)
    try:
        return new._replace(goal_minor=money.minor(change.goal, currency))
    except ValueError as error:
        raise ImpossibleGoal(str(error)) from None


def _detail(change: TicketChange, new: Ticket, default_currency: str) -> str:
    """What the audit log contains of a change: not the title, which is any text."""
    parts = []
    if change.title is not UNSET:
        parts.append("title")
    if change.currency is not UNSET:
        parts.append(f"currency {new.currency or 'none'}")
    if change.goal is not UNSET:
        parts.append(f"goal {new.goal(default_currency) or 'none'}")
    if change.state is not UNSET:
        parts.append(f"state {new.state}")
    return ", ".join(parts)

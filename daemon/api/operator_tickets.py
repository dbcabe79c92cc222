"""The tickets that donations are for, for operators (SPEC 10)."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated

from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType

from daemon.api.endpoints import JSON, Call, Created, Dependencies, Endpoint
from daemon.api.parameters import PAGE, Amount, Currency, Cursor, Goal, Limit, TicketId, Title, page, position
from daemon.ledger import tickets
from daemon.ledger.tickets import POSITION, ChangedMeanwhile, ImpossibleGoal, State, Ticket, TicketChange, TicketExists
from daemon.runtime.http.auth import Scope


class TicketsQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    """Which page of the tickets."""

    limit: Limit = PAGE
    cursor: Cursor | UnsetType = UNSET


class TicketPut(Struct, forbid_unknown_fields=True, kw_only=True):
    """What is to be set; what is left out stays. null stands for no currency of its own, and for no goal."""

    id: TicketId
    new: Annotated[bool, Meta(description="true or false; true: only if there is no such ticket")] = False
    title: Title | UnsetType = UNSET
    currency: Currency | UnsetType | None = UNSET
    goal: Goal | UnsetType | None = UNSET
    state: State | UnsetType = UNSET


class TicketRecord(Struct, rename="camel"):
    """A ticket. Without a currency of its own it has the default one. `state`: open; closed, nothing new is collected;
    hidden, the public sees nothing of it."""

    id: str
    title: str
    currency: str | None
    goal: Amount | None
    state: State
    created_at: datetime


class TicketPage(Struct, rename="camel"):
    """A page of tickets, oldest first."""

    tickets: list[TicketRecord]
    next_cursor: str | None


async def list_tickets(deps: Dependencies, _call: Call, query: TicketsQuery) -> TicketPage:
    """Lists the tickets, oldest first, those that are hidden from the public too."""
    rows = await tickets.tickets(deps.database, query.limit + 1, position(query.cursor, POSITION))
    shown, next_cursor = page(rows, query.limit, lambda row: row.position)
    return TicketPage([_record(row, deps.default_currency) for row in shown], next_cursor)


async def put_ticket(deps: Dependencies, call: Call, given: TicketPut) -> TicketRecord | Created:
    """Adds a ticket, or changes one that exists; what is left out stays as it is."""
    if given.title and not tickets.is_title(given.title):
        raise web.HTTPBadRequest(text="title: at most 200 characters, all of them printable")
    change = TicketChange(title=given.title, currency=given.currency, goal=given.goal, state=given.state)
    try:
        ticket, is_new = await tickets.put(
            *(deps.database, given.id, change),
            actor=call.operator,
            default_currency=deps.default_currency,
            only_new=given.new,
        )
    except TicketExists:
        raise web.HTTPConflict(text="id: there is a ticket with this id already") from None
    except ImpossibleGoal as error:
        raise web.HTTPBadRequest(text=f"goal: {error}") from None
    except ChangedMeanwhile:
        raise web.HTTPConflict(text="other processes change this ticket at this moment: try again") from None
    record = _record(ticket, deps.default_currency)
    return Created(record) if is_new else record


def _record(ticket: Ticket, default_currency: str) -> TicketRecord:
    goal = ticket.goal(default_currency)
    return TicketRecord(
        id=ticket.id,
        title=ticket.title,
        currency=ticket.currency,
        goal=Decimal(goal) if goal else None,
        state=ticket.state,
        created_at=ticket.created_at.astimezone(UTC),
    )


ERRORS = {409: "other processes change the ticket at the same time, or it exists and was to be new"}
ENDPOINTS = [
    Endpoint("GET", "tickets", Scope.READ, list_tickets, TicketsQuery, {JSON: TicketPage}),
    Endpoint("PUT", "tickets/{id}", Scope.ACT, put_ticket, TicketPut, {JSON: TicketRecord}, ERRORS),
]

"""Donations for operators: search, timeline, assignment, erasure, consent, and those without a ticket (SPEC 10)."""

from datetime import UTC, datetime
from typing import Annotated

from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType, field

from daemon.api.donation_records import DonationRecord, DonationTimeline, donation_record, donation_timeline
from daemon.api.endpoints import JSON, AuditEntry, Call, Dependencies, Endpoint
from daemon.api.parameters import (
    PAGE,
    Amount,
    Currency,
    Cursor,
    DonationId,
    Limit,
    TicketId,
    Time,
    amount,
    opaque,
    page,
    position,
)
from daemon.ledger import queues, search
from daemon.ledger.donation import Status
from daemon.ledger.facts import owners
from daemon.ledger.operators import UnknownDonation, UnknownTicket
from daemon.ledger.queues import UNASSIGNED_POSITION, UnassignedDonation
from daemon.ledger.reader import Ledger
from daemon.ledger.search import Search
from daemon.runtime.http.auth import Scope

SearchText = Annotated[
    str,
    Meta(
        pattern="^[A-Za-z0-9_]{1,255}$",
        description="an id of one of the donation's objects at Stripe (pi_ cs_ ch_ re_ dp_ du_ in_ sub_ po_ txn_), or "
        "an e-mail hash of 64 hexadecimal digits",
    ),
]
NO_DONATION = {404: "there is no such donation"}


class SearchQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    """What is searched for. A donation's time is when it was paid, or created while it is not paid."""

    q: SearchText | UnsetType = UNSET
    ticket: TicketId | UnsetType = UNSET
    status: Status | UnsetType = UNSET
    currency: Currency | UnsetType = UNSET
    from_: Time | UnsetType = field(default=UNSET, name="from")
    to: Time | UnsetType = UNSET
    limit: Limit = PAGE
    cursor: Cursor | UnsetType = UNSET

    @property
    def search(self) -> Search:
        """As the ledger searches."""
        after = position(self.cursor, search.POSITION)
        return Search(
            limit=self.limit,
            q=self.q or None,
            ticket=self.ticket or None,
            status=self.status or None,
            currency=self.currency or None,
            low=self.from_ or None,
            high=self.to or None,
            after=(int(after["at"]), after["id"]) if after else None,
        )


class ListQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    """A page of a list."""

    limit: Limit = PAGE
    cursor: Cursor | UnsetType = UNSET


class DonationPath(Struct, forbid_unknown_fields=True, kw_only=True):
    """A donation, by the id of any of its objects."""

    id: DonationId


class Assignment(Struct, forbid_unknown_fields=True, kw_only=True):
    """The ticket that a donation is to have."""

    id: DonationId
    ticket: TicketId


class DonationPage(Struct, rename="camel"):
    """A page of donations, newest first. It may have fewer than `limit`, and even none, and be followed by another:
    `nextCursor` is null on the last page only."""

    donations: list[DonationRecord]
    next_cursor: str | None


class ActionDone(Struct):
    """What was done to which donation, and when."""

    donation: str
    action: str
    by: str
    at: datetime


class UnassignedRecord(Struct, rename="camel"):
    """A paid donation that names no ticket, or an unknown one."""

    id: str
    ticket: str | None
    amount: Amount
    currency: str | None
    status: Status
    paid_at: datetime


class UnassignedPage(Struct, rename="camel"):
    """A page of the donations without a ticket, paid last first."""

    donations: list[UnassignedRecord]
    next_cursor: str | None


async def search_donations(deps: Dependencies, _call: Call, query: SearchQuery) -> DonationPage:
    """Searches donations, newest first; all conditions count together. `from` counts, `to` does not. A search by an
    e-mail hash is on record, without the hash."""
    found = await search.search(deps.database, query.search)
    following = f"{found.next[0]}:{found.next[1]}" if found.next else None
    return DonationPage([donation_record(donation) for donation in found.donations], opaque(following))


async def show_donation(deps: Dependencies, _call: Call, path: DonationPath) -> DonationTimeline:
    """Shows a donation with its timeline: each fact with its source and time, each change of its status and each
    entry of the journal."""
    donation = await search.find(deps.database, path.id)
    items = donation and await Ledger(deps.database).timeline(donation.id)
    if donation is None or items is None:
        raise _unknown_donation(path.id)
    return donation_timeline(donation, items)


async def assign_donation(deps: Dependencies, call: Call, assignment: Assignment) -> ActionDone:
    """Moves a donation to a ticket, whatever its events name; the newest assignment counts."""
    try:
        action = await deps.operators.assign(assignment.id, assignment.ticket, actor=call.operator)
    except UnknownDonation:
        raise _unknown_donation(assignment.id) from None
    except UnknownTicket:
        raise web.HTTPConflict(
            text=f"there is no ticket {assignment.ticket}: add it first, in the console under Tickets or by PUT "
            f"/api/operator/tickets/{assignment.ticket}"
        ) from None
    return ActionDone(action.donation, action.action, action.actor, action.at)


async def erase_donation(deps: Dependencies, call: Call, path: DonationPath) -> ActionDone:
    """Erases a donor's last name, country and e-mail hash from a donation permanently. No total changes, and no
    later delivery restores them."""
    try:
        facts = await deps.operators.facts_of(path.id)
    except UnknownDonation:
        raise _unknown_donation(path.id) from None
    [action] = await deps.operators.erase({owners(facts)[path.id]: facts}, actor=call.operator)
    return ActionDone(action.donation, action.action, action.actor, action.at)


async def withdraw_consent(deps: Dependencies, call: Call, path: DonationPath) -> ActionDone:
    """Ends the showing of a donor's name on public pages; of a monthly donation, for all donations of its subscription.
    No amount changes, and no later delivery restores it."""
    try:
        action = await deps.operators.withdraw_consent(path.id, actor=call.operator)
    except UnknownDonation:
        raise _unknown_donation(path.id) from None
    return ActionDone(action.donation, action.action, action.actor, action.at)


async def list_unassigned(deps: Dependencies, _call: Call, query: ListQuery) -> UnassignedPage:
    """Lists the paid donations that name no ticket, or one that does not exist, paid last first."""
    rows = await queues.unassigned(deps.database, query.limit + 1, position(query.cursor, UNASSIGNED_POSITION))
    shown, next_cursor = page(rows, query.limit, lambda row: row.position)
    return UnassignedPage([_unassigned(row) for row in shown], next_cursor)


def _audit_search(query: SearchQuery) -> AuditEntry | None:
    return AuditEntry("search", "e-mail hash") if query.search.is_by_hash else None


def _unknown_donation(id_: str) -> web.HTTPNotFound:
    return web.HTTPNotFound(text=f"there is no donation {id_}; GET /api/operator/donations searches by any Stripe id")


def _unassigned(row: UnassignedDonation) -> UnassignedRecord:
    given = amount(row.amount_minor or 0, row.currency)
    return UnassignedRecord(row.id, row.ticket, given, row.currency, row.status, row.paid_at.astimezone(UTC))


ENDPOINTS = [
    Endpoint("GET", "donations", Scope.READ, search_donations, SearchQuery, {JSON: DonationPage}, audit=_audit_search),
    Endpoint("GET", "donations/{id}", Scope.READ, show_donation, DonationPath, {JSON: DonationTimeline}, NO_DONATION),
    Endpoint(
        "POST",
        "donations/{id}/assign",
        Scope.ACT,
        assign_donation,
        Assignment,
        {JSON: ActionDone},
        NO_DONATION | {409: "there is no such ticket"},
    ),
    Endpoint("POST", "donations/{id}/erase", Scope.ACT, erase_donation, DonationPath, {JSON: ActionDone}, NO_DONATION),
    Endpoint(
        "POST",
        "donations/{id}/withdraw-consent",
        Scope.ACT,
        withdraw_consent,
        DonationPath,
        {JSON: ActionDone},
        NO_DONATION,
    ),
    Endpoint("GET", "unassigned", Scope.READ, list_unassigned, ListQuery, {JSON: UnassignedPage}),
]

"""Donations for operators: search, timeline, assignment, erasure, consent, and those without a ticket (SPEC 10)."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType, field

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
    opaque,
    place,
)
from daemon.ledger import money, queues, search
from daemon.ledger.donation import Status
from daemon.ledger.facts import owners
from daemon.ledger.operators import UnknownDonation, UnknownTicket
from daemon.ledger.queues import UNASSIGNED_PLACE, UnassignedDonation
from daemon.ledger.reader import Ledger
from daemon.ledger.search import FoundDonation, Search
from daemon.ledger.timeline import BookedEntry, BookedTransaction, Item
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
        after = place(self.cursor, search.PLACE)
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


class DonationRecord(Struct, rename="camel", kw_only=True):
    """A donation. An amount is null as long as no event has named it. `consent`: the donor wants the name to be shown
    on public pages."""

    id: str
    ticket: str | None
    status: Status
    amount: Amount | None
    currency: str | None
    refunded_amount: Amount
    disputed_amount: Amount
    created_at: datetime
    paid_at: datetime | None
    refunded_at: datetime | None
    donor: str
    country: str | None
    email_hash: str | None
    session_id: str | None
    charge_id: str | None
    subscription: str | None
    account: str | None
    consent: bool


class DonationPage(Struct, rename="camel"):
    """A page of donations, newest first. It may have fewer than `limit`, and even none, and be followed by another:
    `nextCursor` is null on the last page only."""

    donations: list[DonationRecord]
    next_cursor: str | None


class BookedEntryRecord(Struct, rename="camel"):
    """An entry of the journal."""

    seq: int
    recorded_at: datetime
    donation: str
    ticket: str | None
    currency: str | None
    kind: str
    object: str
    amount: Amount
    cause: str


class BookedTransactionRecord(Struct, rename="camel"):
    """A change of the account's balance, in the currency in which Stripe settles. `payout`: null until it is known."""

    id: str
    category: str
    object: str
    currency: str
    amount: Amount
    fee: Amount
    net: Amount
    exchange_rate: str | None
    payout: str | None


class TimelineItem(Struct, kw_only=True):
    """A fact of an object, with its value as Stripe sends it (amounts in minor units); a new status; an entry; or a
    change of the account's balance."""

    at: datetime
    kind: str
    source: str
    name: str
    value: Any = None
    entry: BookedEntryRecord | None = None
    transaction: BookedTransactionRecord | None = None


class FeeRecord(Struct, rename="camel"):
    """What Stripe's fees for a donation are in one currency, those for refunds and disputes of it included."""

    currency: str
    amount: Amount


class DonationTimeline(Struct):
    """A donation and everything that is known of it, in the order of time. `fees` is null while that of the payment is
    not known."""

    donation: DonationRecord
    fees: list[FeeRecord] | None
    timeline: list[TimelineItem]


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


def endpoints(deps: Dependencies) -> list[Endpoint]:
    """The endpoints of donations."""
    ledger = Ledger(deps.database)

    async def search_donations(_call: Call, query: SearchQuery) -> DonationPage:
        """Searches donations, newest first; all conditions count together. `from` counts, `to` does not. A search by an
        e-mail hash is on record, without the hash."""
        page = await search.search(deps.database, query.search)
        following = f"{page.next[0]}:{page.next[1]}" if page.next else None
        return DonationPage([_record(donation) for donation in page.donations], opaque(following))

    async def show_donation(_call: Call, path: DonationPath) -> DonationTimeline:
        """Shows a donation with its timeline: each fact with its source and time, each change of its status and each
        entry of the journal."""
        donation = await search.find(deps.database, path.id)
        items = donation and await ledger.timeline(donation.id)
        if donation is None or items is None:
            raise _unknown_donation(path.id)
        return DonationTimeline(_record(donation), _fees(items), [_item(item) for item in items])

    async def assign_donation(call: Call, assignment: Assignment) -> ActionDone:
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

    async def erase_donation(call: Call, path: DonationPath) -> ActionDone:
        """Erases a donor's last name, country and e-mail hash from a donation permanently. No total changes, and no
        later delivery restores them."""
        try:
            facts = await deps.operators.facts_of(path.id)
        except UnknownDonation:
            raise _unknown_donation(path.id) from None
        [action] = await deps.operators.erase({owners(facts)[path.id]: facts}, actor=call.operator)
        return ActionDone(action.donation, action.action, action.actor, action.at)

    async def withdraw_consent(call: Call, path: DonationPath) -> ActionDone:
        """Ends the showing of a donor's name on public pages; of a monthly gift, for all gifts of its subscription. No
        amount changes, and no later delivery restores it."""
        try:
            action = await deps.operators.withdraw_consent(path.id, actor=call.operator)
        except UnknownDonation:
            raise _unknown_donation(path.id) from None
        return ActionDone(action.donation, action.action, action.actor, action.at)

    async def list_unassigned(_call: Call, query: ListQuery) -> UnassignedPage:
        """Lists the paid donations that name no ticket, or one that does not exist, paid last first."""
        after = place(query.cursor, UNASSIGNED_PLACE)
        rows = await queues.unassigned(deps.database, query.limit + 1, after)
        shown = rows[: query.limit]
        more = len(rows) > query.limit
        return UnassignedPage([_unassigned(row) for row in shown], opaque(shown[-1].place) if more else None)

    return [
        Endpoint(
            "GET", "donations", Scope.READ, search_donations, SearchQuery, {JSON: DonationPage}, audit=_audit_search
        ),
        Endpoint(
            "GET", "donations/{id}", Scope.READ, show_donation, DonationPath, {JSON: DonationTimeline}, NO_DONATION
        ),
        Endpoint(
            *("POST", "donations/{id}/assign", Scope.ACT, assign_donation, Assignment, {JSON: ActionDone}),
            errors=NO_DONATION | {409: "there is no such ticket"},
        ),
        Endpoint(
            "POST", "donations/{id}/erase", Scope.ACT, erase_donation, DonationPath, {JSON: ActionDone}, NO_DONATION
        ),
        Endpoint(
            *("POST", "donations/{id}/withdraw-consent", Scope.ACT, withdraw_consent, DonationPath, {JSON: ActionDone}),
            errors=NO_DONATION,
        ),
        Endpoint("GET", "unassigned", Scope.READ, list_unassigned, ListQuery, {JSON: UnassignedPage}),
    ]


def _audit_search(query: SearchQuery) -> AuditEntry | None:
    return AuditEntry("search", "e-mail hash") if query.search.is_by_hash else None


def _unknown_donation(id_: str) -> web.HTTPNotFound:
    return web.HTTPNotFound(text=f"there is no donation {id_}; GET /api/operator/donations searches by any Stripe id")


def _amount(amount_minor: int, currency: str | None) -> Decimal:
    return Decimal(money.major(amount_minor, currency or ""))


def _utc(moment: datetime | None) -> datetime | None:
    return moment.astimezone(UTC) if moment else None


def _record(found: FoundDonation) -> DonationRecord:
    return DonationRecord(
        id=found.id,
        ticket=found.ticket,
        status=found.status,
        amount=None if found.amount_minor is None else _amount(found.amount_minor, found.currency),
        currency=found.currency,
        refunded_amount=_amount(found.refunded_minor, found.currency),
        disputed_amount=_amount(found.disputed_minor, found.currency),
        created_at=found.created_at.astimezone(UTC),
        paid_at=_utc(found.paid_at),
        refunded_at=_utc(found.refunded_at),
        donor=found.last_name or "Anonymous",
        country=found.country,
        email_hash=found.email_hash,
        session_id=found.session_id,
        charge_id=found.charge_id,
        subscription=found.subscription,
        account=found.account,
        consent=bool(found.consent),
    )


def _item(item: Item) -> TimelineItem:
    return TimelineItem(
        at=datetime.fromtimestamp(item.at, UTC),
        kind=item.kind,
        source=item.source,
        name=item.name,
        value=item.value,
        entry=_entry(item.entry) if item.entry else None,
        transaction=_transaction(item.transaction) if item.transaction else None,
    )


def _fees(items: Iterable[Item]) -> list[FeeRecord] | None:
    """The fees in each currency; None while that of the payment is not known."""
    transactions = [item.transaction for item in items if item.transaction]
    if not any(each.category == "charge" for each in transactions):
        return None
    fees: defaultdict[str, int] = defaultdict(int)
    for each in transactions:
        fees[each.currency] += each.fee_minor
    return [FeeRecord(currency, _amount(minor, currency)) for currency, minor in sorted(fees.items())]


def _transaction(row: BookedTransaction) -> BookedTransactionRecord:
    return BookedTransactionRecord(
        id=row.id,
        category=row.category,
        object=row.source,
        currency=row.currency,
        amount=_amount(row.amount_minor, row.currency),
        fee=_amount(row.fee_minor, row.currency),
        net=_amount(row.net_minor, row.currency),
        exchange_rate=row.exchange_rate,
        payout=row.payout,
    )


def _entry(entry: BookedEntry) -> BookedEntryRecord:
    return BookedEntryRecord(
        seq=entry.seq,
        recorded_at=entry.recorded_at.astimezone(UTC),
        donation=entry.donation_id,
        ticket=entry.ticket_id or None,
        currency=entry.currency or None,
        kind=entry.kind,
        object=entry.object_id,
        amount=_amount(entry.amount_minor, entry.currency),
        cause=entry.cause,
    )


def _unassigned(row: UnassignedDonation) -> UnassignedRecord:
    amount = _amount(row.amount_minor or 0, row.currency)
    return UnassignedRecord(row.id, row.ticket, amount, row.currency, row.status, row.paid_at.astimezone(UTC))

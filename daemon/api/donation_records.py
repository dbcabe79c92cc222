"""A donation and its timeline, as the operator API shows them (SPEC 10)."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct

from daemon.api.parameters import Amount, amount
from daemon.ledger.donation import Status
from daemon.ledger.search import FoundDonation
from daemon.ledger.timeline import BookedEntry, BookedTransaction, Item


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


def _utc(moment: datetime | None) -> datetime | None:
    return moment.astimezone(UTC) if moment else None


def donation_record(found: FoundDonation) -> DonationRecord:
    """A donation as it is shown."""
    return DonationRecord(
        id=found.id,
        ticket=found.ticket,
        status=found.status,
        amount=None if found.amount_minor is None else amount(found.amount_minor, found.currency),
        currency=found.currency,
        refunded_amount=amount(found.refunded_minor, found.currency),
        disputed_amount=amount(found.disputed_minor, found.currency),
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


def donation_timeline(found: FoundDonation, items: Sequence[Item]) -> DonationTimeline:
    """A donation with the items of its timeline."""
    return DonationTimeline(donation_record(found), _fees(items), [_item(item) for item in items])


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
    return [FeeRecord(currency, amount(minor, currency)) for currency, minor in sorted(fees.items())]


def _transaction(row: BookedTransaction) -> BookedTransactionRecord:
    return BookedTransactionRecord(
        id=row.id,
        category=row.category,
        object=row.source,
        currency=row.currency,
        amount=amount(row.amount_minor, row.currency),
        fee=amount(row.fee_minor, row.currency),
        net=amount(row.net_minor, row.currency),
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
        amount=amount(entry.amount_minor, entry.currency),
        cause=entry.cause,
    )

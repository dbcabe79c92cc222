"""Finds donations for operators: by any of their Stripe ids, by an e-mail hash, by ticket, status, currency and time
(SPEC 10)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from daemon.ledger import donation_objects
from daemon.ledger.donation import Status
from daemon.ledger.facts import Family, owners
from daemon.ledger.reader import Ledger
from daemon.ledger.unix_times import at_second
from sql import load
from sql.database import Database

SCAN = 5000  # donations that one page looks at: some ten milliseconds
POSITION = re.compile(r"(?P<at>[0-9]{1,12}):(?P<id>[A-Za-z0-9_]{1,255})", re.ASCII)
EMAIL_HASH = re.compile(r"[0-9A-Fa-f]{64}", re.ASCII)
OF_BALANCE = ("po_", "txn_")  # how the ids of payouts and balance transactions begin


class FoundDonation(NamedTuple):
    """A row of search_donations.sql, without a donation (all but the first three are None) if the page has none.

    `at` is when it was paid, or created while it is not paid, in Unix seconds; amounts are in minor units.
    """

    looked_at: int
    last_at: int | None
    last_id: str | None
    at: int
    id: str
    ticket: str | None
    status: Status
    amount_minor: int | None
    currency: str | None
    refunded_minor: int
    disputed_minor: int
    created_at: datetime
    paid_at: datetime | None
    refunded_at: datetime | None
    last_name: str | None
    country: str | None
    email_hash: str | None
    session_id: str | None
    charge_id: str | None
    account: str | None
    subscription: str | None
    consent: bool


@dataclass(frozen=True)
class Search:
    """What is searched for: all conditions together.

    Args:
        q: a Stripe id of the donation, or its e-mail hash.
        low, high: the time when a donation was paid, or created while it is not paid: from `low` to before `high`.
        after: the place of the last donation of the page before: Unix seconds and id.
    """

    limit: int
    q: str | None = None
    ticket: str | None = None
    status: Status | None = None
    currency: str | None = None
    low: datetime | None = None
    high: datetime | None = None
    after: tuple[int, str] | None = None

    @property
    def is_by_hash(self) -> bool:
        """Whether it searches for an e-mail hash, which is on record."""
        return self.q is not None and EMAIL_HASH.fullmatch(self.q) is not None


class FoundPage(NamedTuple):
    """A page of donations, and the position after which the next one begins; None after the last page."""

    donations: list[FoundDonation]
    next: tuple[int, str] | None


async def search(database: Database, wanted: Search) -> FoundPage:
    """One page. It may have fewer donations than the limit, or none, and be followed by another: what no index finds is
    looked for in the next SCAN donations only."""
    way, keys = await _way(database, wanted)
    return await _page_of(database, wanted, way, keys)


async def _page_of(database: Database, wanted: Search, way: str, keys: dict[str, object]) -> FoundPage:
    is_filtered = bool(wanted.status or wanted.currency or (wanted.ticket and way != "ticket"))
    scan = SCAN if is_filtered else wanted.limit + 1
    after_at, after_id = wanted.after or (None, "")
    params = {
        **{"way": way, "scan": scan, "limit": wanted.limit + 1, "hash": None, "subscription": None, "ids": [], **keys},
        **{"ticket": wanted.ticket, "status": wanted.status, "currency": wanted.currency},
        **{"low": wanted.low or "-infinity", "high": wanted.high or "infinity", "after_id": after_id},
        "after_at": "infinity" if after_at is None else at_second(after_at),
    }
    rows = [FoundDonation._make(row) for row in await database.fetch(load("search_donations"), params)]
    return _page(rows, wanted.limit, scan)


def _page(rows: Sequence[FoundDonation], limit: int, scan: int) -> FoundPage:
    found = [row for row in rows if row.id is not None]
    if len(found) > limit:
        last = found[limit - 1]
        return FoundPage(found[:limit], (last.at, last.id))
    looked_at, last_at, last_id, *_ = rows[0]
    if looked_at < scan or last_at is None or last_id is None:
        return FoundPage(found, None)
    return FoundPage(found, (last_at, last_id))


async def _way(database: Database, wanted: Search) -> tuple[str, dict[str, object]]:
    """The index that finds the donations, and its keys."""
    q = wanted.q
    if q is None:
        return ("all" if wanted.ticket is None else "ticket"), {}
    if wanted.is_by_hash:
        return "hash", {"hash": q.lower()}
    if q.startswith("sub_"):
        return "subscription", {"subscription": q}
    if q.startswith(OF_BALANCE):
        return "ids", {"ids": [id_ for (id_,) in await database.fetch(load("donations_of_balance"), {"id": q})]}
    return "ids", {"ids": await _ids(Ledger(database), q)}


async def _ids(ledger: Ledger, object_id: str) -> list[str]:
    """The donation that an object belongs to; of an invoice, what has paid it."""
    facts = await ledger.facts_of(object_id)
    if facts is None:
        return []
    if object_id in facts.get(Family.INVOICE, {}):
        found = donation_objects.by_donation(facts, {})
        return [id_ for id_, objects in found.items() if object_id in dict(objects.members[Family.INVOICE])]
    donation = owners(facts).get(object_id)
    return [donation] if donation else []


async def find(database: Database, object_id: str) -> FoundDonation | None:
    """The donation that one of its objects at Stripe belongs to (of an invoice, the newest that paid it); None if there
    is none."""
    page = await _page_of(database, Search(1), "ids", {"ids": await _ids(Ledger(database), object_id)})
    return page.donations[0] if page.donations else None

"""Reads the ledger: pages, totals, and the facts of one donation."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from daemon.ledger import money, projection
from daemon.ledger.donation import Status
from daemon.ledger.facts import Facts, Family, ObjectFacts, merge, owners
from daemon.ledger.timeline import BookedEntry, Item, booked_ids, timeline
from sql import load
from sql.database import Database

ZERO_DECIMAL, THREE_DECIMAL = sorted(money.ZERO_DECIMAL), sorted(money.THREE_DECIMAL)  # as the driver takes them
# Times have no more digits than PostgreSQL's timestamps take, and an id is one of Stripe's.
PLACE = re.compile(r"(?P<paid>-1|\d{1,12}):(?P<created>\d{1,12}):(?P<id>[A-Za-z0-9_]{1,255})", re.ASCII)

SEQ = re.compile(r"\d{1,18}", re.ASCII)  # as PostgreSQL's bigint takes them


class Ledger:
    """Donations in PostgreSQL, for reading; recorder.py writes them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def facts_of(self, id_: str) -> Facts | None:
        """All facts of the donation that this Stripe object belongs to; None if no event has named the object."""
        rows = await self._database.fetch(load("facts_of"), {"id": id_})
        if not rows:
            return None
        row = FactsRow._make(rows[0])
        return merge(row.facts, {Family.CHARGE: {id_: row.failed_charge}}) if row.failed_charge else row.facts

    async def timeline(self, id_: str) -> "list[Item] | None":
        """Everything that is known of the donation that this Stripe object belongs to, in order; None if no event has
        named the object."""
        facts = await self.facts_of(id_)
        donation = facts and owners(facts).get(id_)
        if not facts or not donation:
            return None
        names = {"ids": list(projection.subscriptions(facts))}
        rows = await self._database.fetch(load("verify_subscriptions"), names)
        lent = {subscription: known[Family.SUBSCRIPTION][subscription] for subscription, known in rows}
        names = {"ids": list(booked_ids(donation, facts))}
        entries = await self._database.fetch(load("donation_entries"), names)
        return timeline(donation, facts, lent, map(BookedEntry._make, entries))

    async def facts_with(self, email_hashes: Iterable[str]) -> list[Facts]:
        """All facts that contain one of these e-mail hashes, of unpaid invoices too. Reads the whole ledger."""
        rows = await self._database.fetch(load("facts_with_hash"), {"patterns": [f"%{h}%" for h in email_hashes]})
        return [facts for (facts,) in rows]

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

    async def has_ticket(self, ticket: str) -> bool:
        """Whether there is such a ticket."""
        return bool(await self._database.fetch(load("ticket"), {"ticket": ticket}))

    async def totals(self, ticket: str) -> "list[TotalsRow]":
        """One row per currency; none for an unknown ticket."""
        return list(map(TotalsRow._make, await self._database.fetch(load("ticket_totals"), {"ticket": ticket})))

    async def totals_as_of(self, ticket: str, moment: "Moment") -> "list[PastTotalsRow]":
        """As `totals`, as they were known at an earlier moment."""
        rows = await self._database.fetch(load("totals_as_of"), {"ticket": ticket, **moment._asdict()})
        return list(map(PastTotalsRow._make, rows))

    async def donations_as_of(self, ticket: str, seq: int) -> "list[PastDonation]":
        """A ticket's donations as they were known after an entry."""
        return list(
            map(PastDonation._make, await self._database.fetch(load("ledger_as_of"), {"ticket": ticket, "seq": seq}))
        )


class FactsRow(NamedTuple):
    """A row of facts_of.sql."""

    facts: Facts
    failed_charge: ObjectFacts | None


class Figures(NamedTuple):
    """What the donations of a ticket in one currency add up to: three amounts, then numbers of donations by status."""

    paid_minor: int = 0
    refunded_minor: int = 0
    disputed_minor: int = 0
    paid: int = 0
    refunded: int = 0
    disputed: int = 0
    partially_refunded: int = 0

    @property
    def net_minor(self) -> int:
        """net = paid - refunded - disputed (SPEC 3)."""
        return self.paid_minor - self.refunded_minor - self.disputed_minor

    @property
    def donations(self) -> int:
        """The number of all donations that were ever paid."""
        return self.paid + self.refunded + self.disputed


class TotalsRow(NamedTuple):
    """A row of ticket_totals.sql: the ticket's own currency, one currency's figures, and the ticket's last donation.

    A ticket without donations has one row without a currency and without figures.
    """

    ticket_currency: str | None
    currency: str | None
    paid_minor: int
    refunded_minor: int
    disputed_minor: int
    paid: int
    refunded: int
    disputed: int
    partially_refunded: int
    last_paid_at: datetime | None
    last_amount_minor: int | None
    last_donor: str | None
    last_currency: str | None
    ledger_seq: int

    @property
    def figures(self) -> Figures:
        """The figures of its currency."""
        amounts = (self.paid_minor, self.refunded_minor, self.disputed_minor)
        return Figures(*amounts, self.paid, self.refunded, self.disputed, self.partially_refunded)


class PastTotalsRow(NamedTuple):
    """A row of totals_as_of.sql: the last entry that counts, and one currency's figures; None as in TotalsRow."""

    ticket_currency: str | None
    seq: int
    recorded_at: datetime | None
    currency: str | None
    paid_minor: int
    refunded_minor: int
    disputed_minor: int

    @property
    def figures(self) -> Figures:
        """The amounts; the journal does not count donations by status."""
        return Figures(self.paid_minor, self.refunded_minor, self.disputed_minor)


class PastDonation(NamedTuple):
    """A row of ledger_as_of.sql: what a donation's entries add up to; '' where its currency was not known."""

    donation_id: str
    currency: str
    paid_at: datetime | None
    paid_minor: int
    refunded_minor: int
    disputed_minor: int


class Moment(NamedTuple):
    """A moment in the journal: after the entry `seq`, or after the last one recorded at `time`; the other is None."""

    seq: int | None
    time: datetime | None

    @classmethod
    def parse(cls, text: str) -> "Moment":
        """Reads an entry's number or a time of RFC 3339; without a zone it is in UTC. Raises ValueError."""
        if SEQ.fullmatch(text):
            return cls(int(text), None)
        if text.isdigit():
            raise ValueError("the number of an entry has at most 18 digits")
        time = datetime.fromisoformat(text)
        return cls(None, time if time.tzinfo else time.replace(tzinfo=UTC))

    @property
    def text(self) -> str:
        """The text of which `parse` makes the same moment."""
        return str(self.seq) if self.time is None else self.time.isoformat()


@dataclass(frozen=True)
class Cursor:
    """A place in the ledger's order: times in Unix seconds, `paid` -1 for a donation that is not paid."""

    paid: int
    created: int
    id: str

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Reads a `Page.next`. Raises ValueError for any other text."""
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
    status: Status | None = None
    currency: str | None = None
    after: Cursor | None = None


@dataclass(frozen=True)
class Page:
    """The row of ledger_page.sql: the donations as a JSON array, their number, and where the next page begins (None on
    the last one)."""

    donations: str
    count: int
    next: str | None
    ledger_seq: int

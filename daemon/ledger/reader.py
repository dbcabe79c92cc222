"""Reads the ledger: pages, totals, and the facts of one donation.

Pages and totals are what everyone asks for: their queries are prepared, and one query answers all requests that arrived
while the one before was running (coalescer.py).
"""

import asyncio
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

import msgspec

from daemon.ledger import projection
from daemon.ledger.coalescer import Coalescer
from daemon.ledger.donation import DonationRow, ShownDonation, Status
from daemon.ledger.facts import Facts, Family, ObjectFacts, merge, owners
from daemon.ledger.timeline import BookedEntry, BookedTransaction, Item, booked_ids, timeline
from sql import load
from sql.connection import Row
from sql.database import Queryable

# One query reads the totals of so many tickets, or pages with so many donations: a few milliseconds of this process's
# time, in which it answers nothing else.
QUERY_TICKETS, QUERY_DONATIONS = 256, 1000

# The queries are planned once per connection: to plan a page takes longer than to read it. They read indexes in their
# order, also where PostgreSQL believes that a table is still small. A plan is made for the tables' size at that time:
# it is made again when the journal has grown by GROWTH.
FIRST_GROWTH, GROWTH = 1000, 10
PREPARE = """
SET enable_seqscan = off; SET enable_bitmapscan = off;
PREPARE ticket_totals_{seq} AS {ticket_totals};
PREPARE ledger_pages_{seq} AS {ledger_pages}
"""

# Times have no more digits than PostgreSQL's timestamps take, and an id is one of Stripe's.
POSITION = re.compile(r"(?P<paid>-1|\d{1,12}):(?P<created>\d{1,12}):(?P<id>[A-Za-z0-9_]{1,255})", re.ASCII)

SEQ = re.compile(r"\d{1,18}", re.ASCII)  # as PostgreSQL's bigint takes them


class Ledger:
    """Donations in PostgreSQL, for reading; recorder.py writes them."""

    def __init__(self, database: Queryable) -> None:
        self._database = database
        self._totals = Coalescer(self._read_totals, QUERY_TICKETS)
        self._pages = Coalescer(self._read_pages, QUERY_DONATIONS, lambda query: query.limit)
        # With a filter a page may read the ticket's whole ledger. Such a page delays others of its kind only.
        self._filtered_pages = Coalescer(self._read_pages, 1)
        self._planned_at = 0  # the journal's last entry at that time

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
        subscriptions = {subscription: known[Family.SUBSCRIPTION][subscription] for subscription, known in rows}
        names = {"ids": list(booked_ids(donation, facts))}
        entries = await self._database.fetch(load("donation_entries"), names)
        transactions = await self._database.fetch(load("donation_transactions"), names)
        return timeline(
            donation, facts, subscriptions, map(BookedEntry._make, entries), map(BookedTransaction._make, transactions)
        )

    async def facts_with(self, email_hashes: Iterable[str]) -> list[Facts]:
        """All facts that contain one of these e-mail hashes, of unpaid invoices too. Reads the whole ledger."""
        rows = await self._database.fetch(load("facts_with_hash"), {"patterns": [f"%{h}%" for h in email_hashes]})
        return [facts for (facts,) in rows]

    def page(self, query: "PageQuery") -> "asyncio.Future[Page | None]":
        """One page of a ticket's ledger; None for an unknown ticket."""
        is_filtered = query.status is not None or query.currency is not None
        return (self._filtered_pages if is_filtered else self._pages).read(query)

    async def _read_pages(self, queries: "Sequence[PageQuery]") -> "dict[PageQuery, Page]":
        asked = msgspec.json.encode([query.arguments(n) for n, query in enumerate(queries)]).decode()
        rows = map(PageRow.of, await self._fetch("ledger_pages", asked))
        return {queries[n]: Page.of(queries[n], list(found)) for n, found in groupby(rows, attrgetter("n"))}

    async def has_ticket(self, ticket: str) -> bool:
        """Whether there is such a ticket."""
        return bool(await self._database.fetch(load("ticket"), {"ticket": ticket}))

    def totals(self, ticket: str) -> "asyncio.Future[Totals | None]":
        """A ticket's totals; None for an unknown ticket."""
        return self._totals.read(ticket)

    async def _read_totals(self, tickets: Sequence[str]) -> "dict[str, Totals]":
        # An id contains neither commas nor quotes; in quotes, because `null` may be one.
        ids = ",".join(f'"{ticket}"' for ticket in tickets)
        rows = map(TotalsRow._make, await self._fetch("ticket_totals", f"{{{ids}}}"))
        return {ticket: Totals.of(list(found)) for ticket, found in groupby(rows, attrgetter("ticket"))}

    async def _fetch(self, query: str, argument: str) -> list[Row]:
        """The rows of a prepared query, the last column of which is the journal's last entry."""
        seq = self._planned_at
        prepare = PREPARE.format(seq=seq, ticket_totals=load("ticket_totals"), ledger_pages=load("ledger_pages"))
        rows = await self._database.fetch(f"EXECUTE {query}_{seq} (%s)", [argument], prepare=prepare)
        if rows and rows[0][-1] >= max(FIRST_GROWTH, seq * GROWTH):
            self._planned_at = rows[0][-1]
        return rows

    async def totals_as_of(self, ticket: str, seq: int) -> "list[PastTotalsRow]":
        """As `totals`, as they were known after an entry; empty for an unknown ticket."""
        rows = await self._database.fetch(load("totals_as_of"), {"ticket": ticket, "seq": seq})
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

    ticket: str
    is_hidden: bool
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


class LastDonation(NamedTuple):
    """The donation of a ticket that was paid last; None where a value is not known."""

    paid_at: datetime
    amount_minor: int | None
    donor: str | None
    currency: str | None


class TicketFigures(NamedTuple):
    """All that is shown of a ticket without its single donations: its own currency (None: the default), the figures of
    each currency, by its name, and the last donation."""

    currency: str | None
    by_currency: tuple[tuple[str, Figures], ...]
    last_donation: LastDonation | None


class Totals(NamedTuple):
    """A ticket's figures, whether they are hidden from the public, and the journal's last entry when they were read."""

    ledger_seq: int
    is_hidden: bool
    ticket: TicketFigures

    @classmethod
    def of(cls, rows: Sequence[TotalsRow]) -> "Totals":
        """The totals that these rows of one ticket state."""
        first = rows[0]
        last = None
        if first.last_paid_at is not None:
            last = LastDonation(first.last_paid_at, first.last_amount_minor, first.last_donor, first.last_currency)
        by_currency = tuple((row.currency, row.figures) for row in rows if row.currency)
        return cls(first.ledger_seq, first.is_hidden, TicketFigures(first.ticket_currency, by_currency, last))


class PastTotalsRow(NamedTuple):
    """A row of totals_as_of.sql: one currency's figures; None as in TotalsRow."""

    ticket_currency: str | None
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
    """A moment in the journal: after the entry `seq`, or after the last one recorded at `time`; the other is None.

    `fees` is the last row of balance_transactions that counts; None for those that were recorded until then.
    """

    seq: int | None
    time: datetime | None
    fees: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Moment":
        """Reads an entry's number, one with that of a fee (`48210.315`), or a time of RFC 3339; without a zone it is in
        UTC. Raises ValueError."""
        seq, _, fees = text.partition(".")
        if SEQ.fullmatch(seq) and (not fees or SEQ.fullmatch(fees)) and not text.endswith("."):
            return cls(int(seq), None, int(fees) if fees else None)
        if text.isdigit():
            raise ValueError("the number of an entry has at most 18 digits")
        time = datetime.fromisoformat(text)
        try:
            # PostgreSQL does not take every offset that Python does.
            return cls(None, time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC))
        except OverflowError:
            raise ValueError("in UTC this time is not within the years 1 to 9999") from None

    @property
    def text(self) -> str:
        """The text of which `parse` makes the same moment."""
        if self.time is not None:
            return self.time.isoformat()
        return str(self.seq) if self.fees is None else f"{self.seq}.{self.fees}"


@dataclass(frozen=True)
class Cursor:
    """A position in the ledger's order: times in Unix seconds, `paid` -1 for a donation that is not paid."""

    paid: int
    created: int
    id: str

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Reads the text of a cursor. Raises ValueError for any other text."""
        position = POSITION.fullmatch(text)
        if position is None:
            raise ValueError("not a position in the ledger")
        return cls(int(position["paid"]), int(position["created"]), position["id"])

    def __str__(self) -> str:
        return f"{self.paid}:{self.created}:{self.id}"


@dataclass(frozen=True)
class PageQuery:
    """Which page of which ticket; `status` and `currency` None for all, `after` None for the first page.

    `known` contains the fingerprints of those that the client has: if the page has one of them, it is not read.
    """

    ticket: str
    limit: int
    default_currency: str
    status: Status | None = None
    currency: str | None = None
    after: Cursor | None = None
    known: frozenset[int] = frozenset()

    def arguments(self, n: int) -> dict[str, object]:
        """As ledger_pages.sql reads it."""
        after = self.after
        return {
            "n": n,
            "ticket": self.ticket,
            "rows": self.limit,
            "status": self.status,
            "currency": self.currency,
            "after_paid": None if after is None or after.paid < 0 else after.paid,
            "after_created": after and after.created,
            "after_id": after and after.id,
            "known": self.known,
        }


class PageRow(NamedTuple):
    """A row of ledger_pages.sql: a donation of a page, None for a page without donations."""

    n: int
    is_hidden: bool
    ticket_currency: str | None
    donation: DonationRow | None
    fingerprint: int
    ledger_seq: int

    @classmethod
    def of(cls, row: Row) -> "PageRow":
        """The columns of the donation stand in the place of `donation`."""
        n, is_hidden, ticket_currency, *columns, fingerprint, ledger_seq = row
        donation = DonationRow._make(columns)
        return cls(n, is_hidden, ticket_currency, donation if donation.id else None, fingerprint, ledger_seq)


@dataclass(frozen=True, eq=False)  # compared and hashed as an object: one that was read later is another
class Page:
    """One page of a ledger, whether it is hidden from the public, and the journal's last entry when it was read.

    Two pages of one query (but for `known`) with the same fingerprint show the same. `next` is where the next page
    begins, None on the last one.
    """

    ledger_seq: int
    is_hidden: bool
    fingerprint: int
    currency: str
    rows: Sequence[DonationRow]
    next: Cursor | None

    @classmethod
    def of(cls, query: PageQuery, rows: Sequence[PageRow]) -> "Page":
        """The page that these rows state. Of a page that the client has there are no donations."""
        first = rows[0]
        currency = first.ticket_currency or query.default_currency
        if first.donation is None or first.fingerprint in query.known:
            return cls(first.ledger_seq, first.is_hidden, first.fingerprint, currency, (), None)
        donations = [row.donation for row in rows[: query.limit] if row.donation]
        last = donations[-1]
        next_ = None
        if len(rows) > query.limit:
            next_ = Cursor(-1 if last.paid_at is None else last.paid_at, last.created_at, last.id)
        return cls(first.ledger_seq, first.is_hidden, first.fingerprint, currency, donations, next_)

    @property
    def donations(self) -> Iterator[ShownDonation]:
        """Its donations, as they are shown."""
        return (ShownDonation.of(row, self.currency) for row in self.rows)

    @cached_property
    def json(self) -> bytes:
        """Its donations as a JSON array. It is made once for all who asked for the page at the same time."""
        return b"[" + b", ".join(donation.json() for donation in self.donations) + b"]"

"""Exports: the donations, or the journal's entries, as a file that other programs read (SPEC 11).

An export is of one snapshot. Its manifest states what the file must contain, so that a file that is not complete is
noticed, and where the next part continues. The rows come from the reader of the snapshot: a command, or the API.
"""

import hashlib
import importlib.metadata
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Struct

from daemon.ledger.balance import GROUPS, Group
from daemon.ledger.donation import Status
from daemon.ledger.facts import ID_PATTERN
from daemon.ledger.reader import SEQ, Moment
from daemon.ledger.search import EMAIL_HASH
from daemon.reports.entry_sums import find_moment
from daemon.reports.fees import FEE_CATEGORIES
from daemon.reports.formats import PROFILES, Column, CsvFile, Format, JsonLines, Row, Type
from sql.database import Database

DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
PAYMENT_CATEGORIES = [category for category, group in GROUPS.items() if group is Group.PAYMENTS]
NEVER_PAID = frozenset({Status.CREATED, Status.FAILED, Status.EXPIRED})  # a donation with a paidAt has none of these


class Kind(StrEnum):
    """What is exported."""

    DONATIONS = "donations"
    ENTRIES = "entries"


class DonationRow(NamedTuple):
    """A row of export_donations.sql."""

    id: str
    ticket_id: str | None
    ticket_title: str | None
    status: Status
    amount_minor: int | None
    refunded_minor: int
    disputed_minor: int
    currency: str | None
    created_at: int
    paid_at: int | None
    refunded_at: int | None
    donor: str | None
    country: str | None
    email_hash: str | None
    session_id: str | None
    charge_id: str | None
    subscription_id: str | None
    account: str | None
    fee_minor: int | None
    fee_currency: str | None
    settled_minor: int | None
    exchange_rate: str | None


COLUMNS: dict[Kind, tuple[Column, ...]] = {
    Kind.DONATIONS: (
        Column("id", Type.TEXT),
        Column("ticketId", Type.TEXT),
        Column("ticketTitle", Type.TEXT),
        Column("status", Type.TEXT),
        Column("amount", Type.AMOUNT),
        Column("refundedAmount", Type.AMOUNT),
        Column("disputedAmount", Type.AMOUNT),
        Column("currency", Type.TEXT),
        Column("createdAt", Type.SECONDS),
        Column("paidAt", Type.SECONDS),
        Column("refundedAt", Type.SECONDS),
        Column("donor", Type.TEXT),
        Column("country", Type.TEXT),
        Column("emailHash", Type.TEXT),
        Column("sessionId", Type.TEXT),
        Column("chargeId", Type.TEXT),
        Column("subscriptionId", Type.TEXT),
        Column("account", Type.TEXT),
        Column("fee", Type.AMOUNT, "feeCurrency"),
        Column("feeCurrency", Type.TEXT),
        Column("settledAmount", Type.AMOUNT, "feeCurrency"),
        Column("exchangeRate", Type.DECIMAL),
    ),
    Kind.ENTRIES: (
        Column("seq", Type.NUMBER),
        Column("recordedAt", Type.MICROSECONDS),
        Column("effectiveAt", Type.SECONDS),
        Column("kind", Type.TEXT),
        Column("donationId", Type.TEXT),
        Column("ticketId", Type.TEXT),
        Column("ticketTitle", Type.TEXT),
        Column("amount", Type.AMOUNT),
        Column("currency", Type.TEXT),
        Column("objectId", Type.TEXT),
        Column("cause", Type.TEXT),
    ),
}


def table_format(kind: Kind, profile: str | None, zone: ZoneInfo) -> Format:
    """A CSV file with one of PROFILES, or with None JSON lines. Raises KeyError for a profile that is not known."""
    return JsonLines(COLUMNS[kind]) if profile is None else CsvFile(COLUMNS[kind], PROFILES[profile], zone)


@dataclass(frozen=True)
class Selection:
    """Which rows are exported; None: of all.

    Args:
        from_s, to_s: the period, in Unix seconds; its end does not belong to it. It counts by the time of the payment
            (if there was none, of creation), and for entries by the time when the money moved.
        unpaid: donations that were never paid too.
        after: continue after this key: a donation's id, or an entry's number, of a journal with that of a fee
            (`1377.1290`).
        as_of: entries up to this moment.
    """

    kind: Kind
    ticket: str | None = None
    status: Status | None = None
    currency: str | None = None
    from_s: int | None = None
    to_s: int | None = None
    unpaid: bool = False
    after: str | None = None
    as_of: Moment | None = None

    @property
    def query(self) -> str:
        """The name of the query."""
        return f"export_{self.kind}"

    def params(self, seq: int) -> dict[str, object]:
        """Its parameters, as of the journal's entry `seq`."""
        if self.kind is Kind.ENTRIES:
            return {**self._filters, "after": self.after_entry, "seq": seq}
        unpaid = {"unpaid": self.unpaid or self.status in NEVER_PAID, "payments": PAYMENT_CATEGORIES}
        return {**self._filters, **unpaid, "status": self.status, "after": self.after}

    def fee_params(self, fees_seq: int) -> dict[str, object]:
        """The parameters of export_fees.sql, as of the row `fees_seq` of balance_transactions."""
        return {**self._filters, "after": self.after_fee, "seq": fees_seq, "fees": FEE_CATEGORIES}

    def declared_params(self) -> dict[str, object]:
        """The parameters of export_declared.sql."""
        return {**self._filters, "after": self.after_entry, "fees_after": self.after_fee}

    @property
    def _filters(self) -> dict[str, object]:
        return {"ticket": self.ticket, "currency": self.currency, "from_s": self.from_s, "to_s": self.to_s}

    @property
    def after_entry(self) -> int:
        """The entry after which entries continue."""
        return int((self.after or "0").partition(".")[0])

    @property
    def after_fee(self) -> int:
        """The row of balance_transactions after which fees continue."""
        return int((self.after or "").partition(".")[2] or 0)

    def filters(self) -> dict[str, str | int | bool]:
        """What limits the rows, for people: as the options of the command and the parameters of the API are named."""
        named = {
            "ticket": self.ticket,
            "status": self.status,
            "currency": self.currency,
            "from": _time_text(self.from_s),
            "to": _time_text(self.to_s),
            "unpaid": self.unpaid or None,
            "after": self.after,
            "asOf": None if self.as_of is None else self.as_of.text,
        }
        return {name: value for name, value in named.items() if value is not None}


def audit_detail(selection: Selection, format_name: str) -> str:
    """What the audit log records of an export: `donations, csv, ticket story-1`.

    An e-mail hash is valid as a ticket or an id too. One that was given by mistake is left out, because the audit log
    is permanent.
    """
    filters = (name if value is True else f"{name} {_recorded(value)}" for name, value in selection.filters().items())
    return ", ".join((selection.kind, format_name, *filters))


def _recorded(value: str | int) -> str:
    return "(an e-mail hash)" if EMAIL_HASH.fullmatch(str(value)) else str(value)


def _time_text(seconds: int | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


class MomentRow(NamedTuple):
    """The row of export_moment.sql."""

    seq: int
    fees_seq: int
    taken_at: int


class Manifest(Struct, frozen=True, rename="camel", omit_defaults=True):
    """What a complete file contains, and how to continue after it."""

    kind: Kind
    format: str
    rows: int
    size: int  # bytes
    sha256: str
    seq: int  # the journal's last entry in the snapshot
    taken_at: str
    filters: dict[str, str | int | bool]
    first: str | int | None  # keys: of donations the id, of entries the number; the last one of a journal is 1377.1290
    last: str | int | None
    release: str
    profile: str | None = None
    time_zone: str | None = None
    continue_with: str | None = None

    def json(self) -> bytes:
        """Its JSON, in lines."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


async def find_last(database: Database, selection: Selection) -> dict[str, int | None]:
    """The entry and the fee that the selection's `as_of` ends with, as parameters of export_moment.sql; None for the
    newest ones of the snapshot.

    Raises MomentInFuture: what was recorded until then would still change.
    """
    found = None if selection.as_of is None else await find_moment(database, selection.as_of)
    return {"seq": found and found.seq, "fees": found and found.fees_seq}


async def continue_fees(database: Database, selection: Selection) -> Selection:
    """The same selection of a journal, with the fee after which it continues: if none is given, the last one that was
    recorded until the entry was.

    Raises MomentInFuture: there is no such entry yet.
    """
    if selection.after is None or "." in selection.after:
        return selection
    found = await find_moment(database, Moment.parse(selection.after))
    return replace(selection, after=f"{found.seq}.{found.fees_seq}")


decode_manifest = msgspec.json.Decoder(Manifest).decode


class Export:
    """Makes the bytes of one file, and counts what its manifest states.

    Args:
        moment: of the snapshot that the rows are read from.
        with_head: whether the file begins with what comes before the first row.
        has_fees: whether it is a journal, which has fees after its entries.
    """

    def __init__(
        self,
        format_: Format,
        moment: MomentRow,
        selection: Selection,
        *,
        with_head: bool = True,
        has_fees: bool = False,
    ) -> None:
        self._format = format_
        self._moment = moment
        self._selection = selection
        self._with_head = with_head
        self._digest = hashlib.sha256()
        self._size = 0
        self._first: str | int | None = None
        self._last: str | int | None = None
        self._last_fee = selection.after_fee if has_fees else None
        self.rows = 0

    @property
    def last(self) -> str | int | None:
        """The key of the last row so far, after which the next part continues; None before any."""
        if self._last_fee is None:
            return self._last
        return f"{self._last or self._selection.after_entry}.{self._last_fee}"

    def head(self) -> bytes:
        """The beginning of the file."""
        return self._count(self._format.head()) if self._with_head else b""

    def batch(self, rows: Sequence[Row]) -> bytes:
        """The next rows; at least one."""
        if not self.rows:
            self._first = rows[0][0]
        self._last = rows[-1][0]
        return self._write(rows)

    def fees(self, rows: Sequence[Row]) -> bytes:
        """The next fees, after all entries; at least one."""
        self._last_fee = rows[-1][0]
        return self._write(rows)

    def _write(self, rows: Sequence[Row]) -> bytes:
        self.rows += len(rows)
        return self._count(self._format.batch(rows))

    def _count(self, content: bytes) -> bytes:
        self._digest.update(content)
        self._size += len(content)
        return content

    def manifest(
        self,
        format_name: str,
        *,
        profile: str | None = None,
        zone: ZoneInfo | None = None,
        continue_with: str | None = None,
    ) -> Manifest:
        """What the file contains after its last row.

        Args:
            continue_with: the command, or the parameters, of the next part.
        """
        return Manifest(
            kind=self._selection.kind,
            format=format_name,
            rows=self.rows,
            size=self._size,
            sha256=self._digest.hexdigest(),
            seq=self._moment.seq,
            taken_at=_time_text(self._moment.taken_at) or "",
            filters=self._selection.filters(),
            first=self._first,
            last=self.last,
            release=importlib.metadata.version("donationd"),
            profile=profile,
            time_zone=zone.key if zone else None,
            continue_with=continue_with,
        )


# --- The values of options and parameters -----------------------------------------------------------------------------


def parse_time(text: str, zone: ZoneInfo) -> int:
    """A day or a time of RFC 3339 in Unix seconds; without an offset it is in the time zone. Raises ValueError."""
    time = datetime.fromisoformat(text)
    return first_second(time if time.tzinfo else time.replace(tzinfo=zone))


def first_second(time: datetime) -> int:
    """The first whole second, in Unix seconds, that is not before a time. The ledger's times are whole seconds, so a
    period that begins or ends at either of the two contains the same.
    """
    return math.ceil(time.timestamp())


def parse_key(kind: Kind, text: str) -> str:
    """The key of a row. Raises ValueError for any other text."""
    if kind is Kind.DONATIONS:
        if not re.fullmatch(ID_PATTERN, text):
            raise ValueError("a donation's id")
    elif not all(SEQ.fullmatch(part) for part in text.split(".", 1)):
        raise ValueError("an entry's number")
    return text

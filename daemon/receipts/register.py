"""The register of receipts: which were issued, under which numbers, and which are still valid (SPEC 12).

A number is given by the statement that stores the receipt, and only if it is the next one of its year. The PDF contains
the number, so it is made before: where another process takes the number first, it is made again with the next one. No
lock is held meanwhile, and no number is ever left out.
"""

import hashlib
import re
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from typing import NamedTuple

from daemon.receipts.donation import PaidDonation
from sql import load
from sql.connection import Row
from sql.database import Database

ROUNDS = 20  # more processes than that issue no receipts at the same time
SERIAL = re.compile(r"(?P<year>[0-9]{4})-(?P<number>[0-9]{6,9})", re.ASCII)


class CannotIssue(Exception):
    """No receipt was issued: the donation has another valid one, or other processes took each number."""


class Serial(NamedTuple):
    """A receipt's number; its text is such as `2026-000123`."""

    year: int
    number: int

    def __str__(self) -> str:
        return f"{self.year:04}-{self.number:06}"

    @classmethod
    def parse(cls, text: str) -> "Serial":
        """The serial that a text names. Raises ValueError."""
        if not (found := SERIAL.fullmatch(text)):
            raise ValueError("a receipt's number is such as 2026-000123")
        return cls(int(found["year"]), int(found["number"]))


class Receipt(NamedTuple):
    """A receipt: what it says but for the donor, and what became of it. The amount is in minor units."""

    serial: Serial
    donation: str
    amount_minor: int
    currency: str
    paid_at: datetime
    issued_at: datetime
    language: str
    template: str
    pdf_sha256: str
    replaced: Serial | None
    voided_at: datetime | None

    @classmethod
    def of(cls, row: Row) -> "Receipt":
        """A row of receipts_of.sql or find_receipt.sql."""
        year, number, *values, replaced_year, replaced_number, voided_at = row
        replaced = None if replaced_year is None else Serial(replaced_year, replaced_number)
        return cls._make([Serial(year, number), *values, replaced, voided_at])

    def covers(self, donation: PaidDonation) -> bool:
        """Whether it says what the charity has of the donation."""
        return (self.amount_minor, self.currency) == (donation.kept_minor, donation.currency)


class ListedReceipt(NamedTuple):
    """A receipt, and the one that replaced it."""

    receipt: Receipt
    replaced_by: Serial | None

    @property
    def state(self) -> str:
        """`valid`, `replaced` or `void`."""
        if self.replaced_by:
            return "replaced"
        return "void" if self.receipt.voided_at else "valid"


async def receipts_of(database: Database, ids: Iterable[str]) -> list[Receipt]:
    """The receipts of a donation, by its ids, the newest first."""
    return [Receipt.of(row) for row in await database.fetch(load("receipts_of"), {"ids": list(ids)})]


async def find_receipt(database: Database, serial: Serial) -> Receipt | None:
    """The receipt with this number."""
    rows = await database.fetch(load("find_receipt"), serial._asdict())
    return Receipt.of(rows[0]) if rows else None


async def list_receipts(
    database: Database, year: int | None, after: Serial | None = None, *, limit: int
) -> list[ListedReceipt]:
    """The receipts of a year, or of all years, after one of them, in the order of their numbers."""
    after_year, after_number = after or (0, 0)
    place = {"year": year, "after_year": after_year, "after_number": after_number, "limit": limit}
    rows = await database.fetch(load("list_receipts"), place)
    return [ListedReceipt(Receipt.of(row[:-2]), None if row[-2] is None else Serial(*row[-2:])) for row in rows]


async def issue(
    database: Database,
    donation: PaidDonation,
    typeset: Callable[[Receipt], Awaitable[bytes]],
    draft: Receipt,
    *,
    mail: int | None,
) -> tuple[Receipt, bytes]:
    """Issues a receipt for what the charity has of a donation.

    Args:
        typeset: makes the PDF of a receipt.
        draft: the receipt, whose number and hash do not count yet; its `replaced` is voided.
        mail: the row of the outbox that it is for.

    Returns:
        The receipt and its PDF.

    Raises:
        CannotIssue.
        DatabaseUnavailable: nothing is known to be issued.
    """
    for _ in range(ROUNDS):
        [(number,)] = await database.fetch(load("next_receipt_number"), {"year": draft.serial.year})
        receipt = draft._replace(serial=Serial(draft.serial.year, number))
        pdf = await typeset(receipt)
        receipt = receipt._replace(pdf_sha256=hashlib.sha256(pdf).hexdigest())
        [(done,)] = await database.fetch(load("issue_receipt"), _row(receipt, donation, mail))
        if done:
            return receipt, pdf
    raise CannotIssue


def _row(receipt: Receipt, donation: PaidDonation, mail: int | None) -> dict[str, object]:
    replaced = receipt.replaced
    return {
        "year": receipt.serial.year,
        "number": receipt.serial.number,
        "donation_id": receipt.donation,
        "amount_minor": receipt.amount_minor,
        "currency": receipt.currency,
        "paid_at": receipt.paid_at,
        "issued_at": receipt.issued_at,
        "language": receipt.language,
        "template": receipt.template,
        "pdf_sha256": receipt.pdf_sha256,
        "replaced_year": replaced and replaced.year,
        "replaced_number": replaced and replaced.number,
        "ids": list(donation.ids),
        "mail": mail,
    }


async def void(database: Database, serial: Serial, at: datetime, *, mail: int) -> None:
    """Voids a receipt, and notes it at the mail that says so."""
    await database.fetch(load("void_receipt"), {**serial._asdict(), "at": at, "mail": mail})

"""Pure: a donation as it is derived and stored, and as it is shown."""

from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

import msgspec
from msgspec import Struct

from daemon.ledger import money


class Status(StrEnum):
    """A donation's status. `STATUSES` in projection.py says which one a donation has."""

    CREATED = "CREATED"
    PAID = "PAID"
    FAILED = "FAILED"
    REFUNDED = "REFUNDED"
    DISPUTED = "DISPUTED"
    EXPIRED = "EXPIRED"


class Donation(Struct, frozen=True):
    """What is derived of a donation. Amounts are in minor units, times in Unix seconds; None where a value is not
    known."""

    id: str
    ticket: str | None
    status: Status
    amount: int | None
    currency: str | None
    refunded: int
    disputed: int
    created_at: int
    paid_at: int | None
    refunded_at: int | None
    last_name: str | None
    country: str | None
    email_hash: str | None
    session_id: str | None
    charge_id: str | None
    account: str | None
    subscription: str | None = None
    consent: bool = False  # whether the donor wants the name to be shown


class DonationRow(NamedTuple):
    """What is read of a donation to show it. Amounts are in minor units, times in Unix seconds; None where a value is
    not known."""

    id: str
    amount_minor: int | None
    currency: str | None
    status: str
    donor_last_name: str | None
    donor_country: str | None
    created_at: int
    paid_at: int | None
    refunded_at: int | None
    session_id: str | None
    refunded_minor: int
    disputed_minor: int


class ShownDonation(Struct, frozen=True, rename="camel"):
    """A donation as it is shown. Its JSON, which the API sends, has these fields; everything else that shows a donation
    is made from this type too. Amounts are exact, in major units."""

    id: str
    amount: Decimal
    currency: str
    status: str
    donor: str
    country: str | None
    created_at: datetime
    paid_at: datetime | None
    refunded_at: datetime | None
    session_id: str | None
    refunded_amount: Decimal
    disputed_amount: Decimal

    @classmethod
    def of(cls, row: DonationRow, default_currency: str) -> "ShownDonation":
        """What is shown of a row; `default_currency` is that of the ticket, for a row whose currency is not known."""
        currency = row.currency or default_currency
        decimals = -money.exponent(currency)
        return cls(
            row.id,
            Decimal(row.amount_minor or 0).scaleb(decimals),
            currency,
            row.status,
            row.donor_last_name or "Anonymous",
            row.donor_country,
            _utc(row.created_at, UTC),
            None if row.paid_at is None else _utc(row.paid_at, UTC),
            None if row.refunded_at is None else _utc(row.refunded_at, UTC),
            row.session_id,
            Decimal(row.refunded_minor).scaleb(decimals),
            Decimal(row.disputed_minor).scaleb(decimals),
        )

    def json(self) -> bytes:
        """Its JSON."""
        return _encode(self)

    def text(self) -> str:
        """`[2024-12-16 10:31] $50.00 - Smith (US) - PAID`, as the original design's section 9.2 shows it.

        The original design has no partial refunds: they are shown with their amount.
        """
        parts = [f"[{minute(self.paid_at or self.created_at)}] {self._display(self.amount)}"]
        parts.append(f"{self.donor} ({self.country})" if self.country else self.donor)
        parts.append(self.status)
        text = " - ".join(parts)
        if self.refunded_at is None:
            return text
        refunded = "" if self.refunded_amount == self.amount else f"{self._display(self.refunded_amount)}, "
        return f"{text} (refund: {refunded}{minute(self.refunded_at)})"

    def _display(self, amount: Decimal) -> str:
        return money.with_symbol(str(amount), self.currency)


_utc = datetime.fromtimestamp
_encode = msgspec.json.Encoder(decimal_format="number").encode


def minute(moment: datetime) -> str:
    """A time as it is shown in text: in UTC, to the minute."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"

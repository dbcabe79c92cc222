"""Pure: a donation as it is derived and stored, and as it is shown."""

from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum

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


class ShownDonation(Struct, frozen=True, rename="camel"):
    """A donation as it is shown: the fields, and the values, of the JSON that ledger_page.sql makes of a row.

    The API sends that JSON as it is, because a page may have a thousand donations; what is not JSON is made from this
    type. Amounts are exact, in major units.
    """

    id: str
    amount: Decimal
    currency: str
    status: Status
    donor: str
    country: str | None
    created_at: datetime
    paid_at: datetime | None
    refunded_at: datetime | None
    session_id: str | None
    refunded_amount: Decimal
    disputed_amount: Decimal

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


decode_shown = msgspec.json.Decoder(ShownDonation).decode


def minute(moment: datetime) -> str:
    """A time as it is shown in text: in UTC, to the minute."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"

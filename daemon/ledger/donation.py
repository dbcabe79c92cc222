"""Pure: a donation as it is derived and stored."""

from enum import StrEnum

from msgspec import Struct


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

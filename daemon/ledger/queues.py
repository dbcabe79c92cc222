"""What waits for an operator: paid donations without a ticket, events that could not be applied, and mails to donors
that were not delivered."""

import re
from datetime import datetime
from typing import NamedTuple

import msgspec

from daemon.ledger import money
from daemon.ledger.donation import Status, minute
from daemon.ledger.unix_times import at_microsecond, at_second, microseconds
from sql import load
from sql.database import Database

FIRST = "infinity"  # as PostgreSQL writes a time after all others: where a list of what is newest begins
# Places in the lists: times in Unix seconds and microseconds, and an id.
UNASSIGNED_POSITION = re.compile(
    r"(?P<paid>[0-9]{1,12}):(?P<created>[0-9]{1,12}):(?P<id>[A-Za-z0-9_]{1,255})", re.ASCII
)
FAILED_POSITION = re.compile(r"(?P<received>[0-9]{1,18}):(?P<id>[A-Za-z0-9_]{1,255})", re.ASCII)
MAIL_POSITION = re.compile(r"(?P<changed>[0-9]{1,18}):(?P<id>[0-9]{1,18})", re.ASCII)


class UnassignedDonation(NamedTuple):
    """A row of list_unassigned.sql: a paid donation that names no ticket, or an unknown one."""

    id: str
    ticket: str | None
    amount_minor: int | None
    currency: str | None
    status: Status
    paid_at: datetime
    created_at: datetime

    @property
    def position(self) -> str:
        """Its position in the list."""
        return f"{self.paid_at.timestamp():.0f}:{self.created_at.timestamp():.0f}:{self.id}"

    def json(self) -> bytes:
        """Its JSON; an amount without a currency has two decimals."""
        amount = money.major(self.amount_minor or 0, self.currency or "")
        return msgspec.json.encode(
            {
                "id": self.id,
                "ticket": self.ticket,
                "amount": msgspec.Raw(amount.encode()),
                "currency": self.currency,
                "status": self.status,
                "paidAt": self.paid_at,
            }
        )

    def text(self) -> str:
        """A line of a table."""
        amount = money.display(self.amount_minor or 0, self.currency or "???")
        return f"[{minute(self.paid_at)}] {self.id:<30} {amount:>14}  {self.status:<9} {self.ticket or '-'}"


class FailedEvent(NamedTuple):
    """A row of list_failed.sql."""

    id: str
    type: str
    created_at: datetime
    received_at: datetime
    error: str
    dismissed_at: datetime | None

    @property
    def position(self) -> str:
        """Its position in the list."""
        return f"{microseconds(self.received_at)}:{self.id}"


class UndeliveredMail(NamedTuple):
    """A row of list_undelivered_mail.sql: a mail to a donor, with the class of the reason why it waits for a person.

    `state` is `undelivered`, or `uncertain` for one that was perhaps sent; `smtp_code` has the numbers of the mail
    server's reply, because its text can repeat the address.
    """

    id: int
    donation: str
    kind: str
    state: str
    reason: str | None
    smtp_code: str | None
    changed_at: datetime

    @property
    def position(self) -> str:
        """Its position in the list."""
        return f"{microseconds(self.changed_at)}:{self.id}"


async def unassigned(database: Database, limit: int, after: re.Match[str] | None = None) -> list[UnassignedDonation]:
    """The donations without a ticket, paid last first, after one that UNASSIGNED_POSITION names."""
    position: dict[str, object] = {"after_paid": FIRST, "after_created": FIRST, "after_id": ""}
    if after:
        paid, created = (at_second(int(after[name])) for name in ("paid", "created"))
        position = {"after_paid": paid, "after_created": created, "after_id": after["id"]}
    rows = await database.fetch(load("list_unassigned"), {"limit": limit, **position})
    return list(map(UnassignedDonation._make, rows))


async def failed_events(
    database: Database, limit: int, *, with_dismissed: bool = False, after: re.Match[str] | None = None
) -> list[FailedEvent]:
    """The events that could not be applied, received last first, after one that FAILED_POSITION names."""
    position: dict[str, object] = {"after_received": FIRST, "after_id": ""}
    if after:
        received = at_microsecond(int(after["received"]))
        position = {"after_received": received, "after_id": after["id"]}
    rows = await database.fetch(load("list_failed"), {"limit": limit, "all": with_dismissed, **position})
    return list(map(FailedEvent._make, rows))


async def count_failed(database: Database, *, with_dismissed: bool) -> int:
    """How many events could not be applied."""
    [(count,)] = await database.fetch(load("count_failed"), {"all": with_dismissed})
    return int(count)


async def undelivered_mail(database: Database, limit: int, after: re.Match[str] | None = None) -> list[UndeliveredMail]:
    """The mails that wait for a person, those that changed last first, after one that MAIL_POSITION names."""
    position: dict[str, object] = {"after_changed": FIRST, "after_id": 0}
    if after:
        position = {"after_changed": at_microsecond(int(after["changed"])), "after_id": int(after["id"])}
    rows = await database.fetch(load("list_undelivered_mail"), {"limit": limit, **position})
    return list(map(UndeliveredMail._make, rows))

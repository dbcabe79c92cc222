"""The outbox: the mails that wait, by ids only, and what becomes of each.

    queued -> sending -> sent
       |         |-> queued       the server refused it for now
       |         |-> undelivered  the server refused it for good: it waits for a person
       |         '-> uncertain    the connection or this process ended meanwhile: perhaps sent, and waits for a person
       |-> undelivered            no address, for example
       '-> not needed             the donation was refunded before, for example; `queued` again if the refund fails

`sending` is noted before the first byte of the mail is sent, so that no mail is sent twice without a person's decision:
an operator queues an uncertain or undelivered mail again, or dismisses it.
"""

from enum import StrEnum
from typing import NamedTuple

from daemon.receipts.register import Serial
from sql import load
from sql.database import Database

FIRST_WAIT_S, LONGEST_WAIT_S = 60, 6 * 3600
GIVEN_UP_S = 4 * 86400  # RFC 5321, section 4.5.4.1: at least four or five days
AT_ONCE = 50
NOTHING_LEFT = "nothing is left of the donation"  # the reason of thanks that are decided again when that changes


class State(StrEnum):
    """What became of a mail."""

    QUEUED = "queued"
    SENDING = "sending"
    SENT = "sent"
    UNCERTAIN = "uncertain"
    UNDELIVERED = "undelivered"
    DISMISSED = "dismissed"
    NOT_NEEDED = "not needed"


class QueuedMail(NamedTuple):
    """A row of due_mails.sql: a mail that is due. `serial` is that of its receipt, once that is issued."""

    id: int
    donation: str
    kind: str
    seq: int
    attempts: int
    age_s: int
    serial: Serial | None


def wait_s(attempts: int) -> int:
    """Seconds until the next attempt, after so many that failed."""
    return int(min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(attempts, 20)))


class Outbox:
    """The outbox of one ledger. Every function raises DatabaseUnavailable or StatementRejected."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def start(self) -> None:
        """Lets donations that are paid from now on be queued."""
        await self._database.fetch(load("start_mail"))

    async def mark_interrupted(self) -> int:
        """Marks the mails whose sending was interrupted. Returns their number."""
        return len(await self._database.fetch(load("mark_interrupted_mails")))

    async def is_held(self) -> bool:
        """Whether no mail is due, because the ledger was restored and has not been compared with Stripe's objects."""
        return bool(await self._database.fetch(load("load_run"), {"kind": "restore"}))

    async def due(self) -> list[QueuedMail]:
        """Some of the mails that are due, the first ones first."""
        rows = await self._database.fetch(load("due_mails"), {"limit": AT_ONCE})
        return [QueuedMail._make([*row[:-2], None if row[-1] is None else Serial(*row[-2:])]) for row in rows]

    async def is_thanked(self, mail: QueuedMail, ids: frozenset[str]) -> bool:
        """Whether the donation was thanked for under another of its ids."""
        names = {"ids": list(ids), "mail": mail.id}
        [(is_thanked,)] = await self._database.fetch(load("has_been_thanked"), names)
        return bool(is_thanked)

    async def begin_sending(self, mail: QueuedMail, *, template: str, pdf_sha256: str) -> bool:
        """Notes that the mail is being sent, with the receipt's version and hash. False: it is not to be sent."""
        values = {"id": mail.id, "template": template, "pdf_sha256": pdf_sha256}
        return bool(await self._database.fetch(load("begin_sending"), values))

    async def queue_thanks_again(self, ids: frozenset[str]) -> None:
        """Queues the thanks for a donation with these ids again, if nothing was left of it when they were decided."""
        await self._database.fetch(load("queue_thanks_again"), {"ids": list(ids), "reason": NOTHING_LEFT})

    async def settle(self, mail: QueuedMail, state: State, reason: str | None = None, code: str | None = None) -> None:
        """Notes what became of the mail: the reason as one of a few phrases, the code as the numbers of a reply."""
        values = {"id": mail.id, "state": state, "reason": reason, "code": code, "wait_s": wait_s(mail.attempts)}
        await self._database.fetch(load("settle_mail"), values)

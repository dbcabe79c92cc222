"""Does what operators ask for, for the commands and for the operator API: each with its row in the audit log.

`operator_actions.py` says what an action states, and the recorder writes it; `audit.py` adds it to the chain.
"""

import time
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from daemon.ledger import audit, operator_actions
from daemon.ledger.facts import Facts, owners
from daemon.ledger.operator_actions import OperatorAction
from daemon.ledger.reader import Ledger
from daemon.ledger.recorder import Recorder
from sql import load
from sql.database import Database


class UnknownDonation(LookupError):
    """No event has named such an object of a donation."""


class UnknownTicket(LookupError):
    """There is no such ticket."""


class Dismissal(StrEnum):
    """What became of a request to dismiss an event."""

    DONE = "done"
    UNKNOWN = "unknown"
    NOT_FAILED = "not failed"  # it was applied, or it changes nothing
    DONE_BEFORE = "done before"
    CHANGED = "changed"  # by another process at this moment


class MailDecision(StrEnum):
    """What an operator decides about a mail that was not delivered: the state that it then has."""

    RETRY = "queued"
    DISMISS = "dismissed"


class UnknownMail(LookupError):
    """There is no such mail."""


class MailDoesNotWait(Exception):
    """The mail does not wait for a person; `state` is what became of it."""

    def __init__(self, state: str) -> None:
        super().__init__(state)
        self.state = state


class DismissedRow(NamedTuple):
    """The row of dismiss_event.sql: whether it dismissed the event, and how the event was before."""

    done: bool
    error: str | None
    dismissed_at: datetime | None


class Operators:
    """What operators do to donations and events.

    Args:
        database: for reading, and for what changes no donation; the primary server.
        recorder: for what changes donations.
    """

    def __init__(self, database: Database, recorder: Recorder) -> None:
        self._database = database
        self._recorder = recorder
        self._ledger = Ledger(database)

    async def assign(self, donation: str, ticket: str, *, actor: str) -> OperatorAction:
        """Moves a donation, named by one of its objects, to a ticket. Raises UnknownDonation or UnknownTicket."""
        if not await self._ledger.has_ticket(ticket):
            raise UnknownTicket(ticket)
        facts = await self.facts_of(donation)
        action = operator_actions.assign(facts, donation, ticket, actor=actor, at_us=_now_us())
        await self._record([action])
        return action

    async def erase(self, found: dict[str, Facts], *, actor: str) -> list[OperatorAction]:
        """Erases the donors of donations permanently: of each the facts, by its id."""
        at_us = _now_us()
        actions = [operator_actions.erase(facts, id_, actor=actor, at_us=at_us) for id_, facts in found.items()]
        await self._record(actions)
        return actions

    async def withdraw_consent(self, donation: str, *, actor: str) -> OperatorAction:
        """Ends the showing of a donor's name; a donation is named by one of its objects. Raises UnknownDonation."""
        facts = await self.facts_of(donation)
        action = operator_actions.withdraw_consent(facts, donation, actor=actor, at_us=_now_us())
        await self._record([action])
        return action

    async def facts_of(self, donation: str) -> Facts:
        """The facts of a donation, named by one of its objects. Raises UnknownDonation."""
        facts = await self._ledger.facts_of(donation)
        if facts is None or donation not in owners(facts):
            raise UnknownDonation(donation)
        return facts

    async def dismiss(self, event: str, *, actor: str) -> tuple[Dismissal, datetime | None]:
        """Dismisses an event that could not be applied; with the time of an earlier dismissal."""
        rows = await self._database.fetch(load("dismiss_event"), {"id": event, "actor": actor})
        if not rows:
            return Dismissal.UNKNOWN, None
        row = DismissedRow._make(rows[0])
        if row.done:
            await audit.chain_quietly(self._database)
            return Dismissal.DONE, None
        if row.error is None:
            return Dismissal.NOT_FAILED, None
        return (Dismissal.CHANGED if row.dismissed_at is None else Dismissal.DONE_BEFORE), row.dismissed_at

    async def begin_replay(self, event: str, *, actor: str) -> bool | None:
        """Puts on record that an event is read from Stripe again, and returns whether it could not be applied before;
        None if there is no such event."""
        rows = await self._database.fetch(load("record_replay"), {"id": event, "actor": actor})
        if not rows:
            return None
        [(failed,)] = rows
        if failed:
            await audit.chain_quietly(self._database)
        return bool(failed)

    async def decide_mail(self, mail: int, decision: MailDecision, *, actor: str) -> None:
        """Sends a mail that was not delivered once more, or gives it up. Raises UnknownMail or MailDoesNotWait."""
        detail = f"{'send again' if decision is MailDecision.RETRY else 'dismiss'} {mail}"
        values = {"id": mail, "state": decision, "actor": actor, "detail": detail}
        rows = await self._database.fetch(load("decide_mail"), values)
        if not rows:
            raise UnknownMail(mail)
        done, state = rows[0]
        if not done:
            raise MailDoesNotWait(state)
        await audit.chain_quietly(self._database)

    async def _record(self, actions: Sequence[OperatorAction]) -> None:
        await self._recorder.record(actions)
        await audit.chain_quietly(self._database)


def _now_us() -> int:
    return time.time_ns() // 1000

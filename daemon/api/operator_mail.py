"""The mails to donors that were not delivered: listed, sent again and dismissed (SPEC 12, 13)."""

from datetime import UTC, datetime
from typing import Annotated

from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType

from daemon.api.endpoints import JSON, Call, Dependencies, Endpoint
from daemon.api.parameters import PAGE, Cursor, Limit, page, position
from daemon.ledger import queues
from daemon.ledger.operators import MailDecision, MailDoesNotWait, UnknownMail
from daemon.ledger.queues import MAIL_POSITION
from daemon.runtime.http.auth import Scope

MailId = Annotated[int, Meta(ge=1, le=2**53, description="the number of a mail in the list")]


class UndeliveredMailQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    """Which part of the list."""

    limit: Limit = PAGE
    cursor: Cursor | UnsetType = UNSET


class MailPath(Struct, forbid_unknown_fields=True):
    """A mail."""

    id: MailId


class UndeliveredMailRecord(Struct, rename="camel"):
    """A mail that waits for a person: `uncertain` if it was perhaps sent, else `undelivered`. It never contains an
    address; `smtpCode` has the numbers of the mail server's reply."""

    id: int
    donation: str
    kind: str
    state: str
    reason: str | None
    smtp_code: str | None
    changed_at: datetime


class UndeliveredMailPage(Struct, rename="camel"):
    """A page of the mails that wait for a person, those that changed last first."""

    mails: list[UndeliveredMailRecord]
    next_cursor: str | None


class MailDecided(Struct):
    """The mail that waits no more, its state, and who decided it."""

    mail: int
    state: str
    by: str


async def list_undelivered_mail(deps: Dependencies, _call: Call, query: UndeliveredMailQuery) -> UndeliveredMailPage:
    """Lists the mails to donors that were not delivered or were perhaps sent, those that changed last first."""
    rows = await queues.undelivered_mail(deps.database, query.limit + 1, position(query.cursor, MAIL_POSITION))
    shown, next_cursor = page(rows, query.limit, lambda row: row.position)
    mails = [UndeliveredMailRecord(*row[:-1], row.changed_at.astimezone(UTC)) for row in shown]
    return UndeliveredMailPage(mails, next_cursor)


async def retry_mail(deps: Dependencies, call: Call, path: MailPath) -> MailDecided:
    """Sends a mail once more, after its cause was removed. One that was perhaps sent may then arrive twice."""
    return await _decide(deps, path.id, MailDecision.RETRY, call)


async def dismiss_mail(deps: Dependencies, call: Call, path: MailPath) -> MailDecided:
    """Dismisses a mail: it is not sent, and waits no more."""
    return await _decide(deps, path.id, MailDecision.DISMISS, call)


async def _decide(deps: Dependencies, mail: int, decision: MailDecision, call: Call) -> MailDecided:
    try:
        await deps.operators.decide_mail(mail, decision, actor=call.operator)
    except UnknownMail:
        raise web.HTTPNotFound(text=f"there is no mail {mail}") from None
    except MailDoesNotWait as problem:
        raise web.HTTPConflict(text=f"this mail does not wait for a person: it is {problem.state}") from None
    return MailDecided(mail, decision, call.operator)


PATH = "undelivered-mail"
REPLIES = {JSON: MailDecided}
ERRORS = {404: "there is no such mail", 409: "it does not wait for a person"}
ENDPOINTS = [
    Endpoint("GET", PATH, Scope.READ, list_undelivered_mail, UndeliveredMailQuery, {JSON: UndeliveredMailPage}),
    Endpoint("POST", f"{PATH}/{{id}}/retry", Scope.ACT, retry_mail, MailPath, REPLIES, ERRORS),
    Endpoint("POST", f"{PATH}/{{id}}/dismiss", Scope.ACT, dismiss_mail, MailPath, REPLIES, ERRORS),
]

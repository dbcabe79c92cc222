"""The mails to donors that were not delivered: listed, sent again and dismissed (SPEC 12, 13)."""

from datetime import UTC, datetime
from typing import Annotated

from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType

from daemon.api.endpoints import JSON, Call, Dependencies, Endpoint
from daemon.api.parameters import PAGE, Cursor, Limit, opaque, place
from daemon.ledger import queues
from daemon.ledger.operators import MailDecision, MailDoesNotWait, UnknownMail
from daemon.ledger.queues import MAIL_PLACE, UndeliveredMail
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


def endpoints(deps: Dependencies) -> list[Endpoint]:
    """The endpoints of mails that were not delivered."""

    async def list_undelivered_mail(_call: Call, query: UndeliveredMailQuery) -> UndeliveredMailPage:
        """Lists the mails to donors that were not delivered or were perhaps sent, those that changed last first."""
        rows = await queues.undelivered_mail(deps.database, query.limit + 1, place(query.cursor, MAIL_PLACE))
        shown = rows[: query.limit]
        more = len(rows) > query.limit
        return UndeliveredMailPage([_record(row) for row in shown], opaque(shown[-1].place) if more else None)

    async def retry_mail(call: Call, path: MailPath) -> MailDecided:
        """Sends a mail once more, after its cause was removed. One that was perhaps sent may then arrive twice."""
        return await decide(path.id, MailDecision.RETRY, call)

    async def dismiss_mail(call: Call, path: MailPath) -> MailDecided:
        """Dismisses a mail: it is not sent, and waits no more."""
        return await decide(path.id, MailDecision.DISMISS, call)

    async def decide(mail: int, decision: MailDecision, call: Call) -> MailDecided:
        try:
            await deps.operators.decide_mail(mail, decision, actor=call.operator)
        except UnknownMail:
            raise web.HTTPNotFound(text=f"there is no mail {mail}") from None
        except MailDoesNotWait as problem:
            raise web.HTTPConflict(text=f"this mail does not wait for a person: it is {problem.state}") from None
        return MailDecided(mail, decision, call.operator)

    errors = {404: "there is no such mail", 409: "it does not wait for a person"}
    path, reply = "undelivered-mail", {JSON: MailDecided}
    return [
        Endpoint("GET", path, Scope.READ, list_undelivered_mail, UndeliveredMailQuery, {JSON: UndeliveredMailPage}),
        Endpoint("POST", f"{path}/{{id}}/retry", Scope.ACT, retry_mail, MailPath, reply, errors),
        Endpoint("POST", f"{path}/{{id}}/dismiss", Scope.ACT, dismiss_mail, MailPath, reply, errors),
    ]


def _record(row: UndeliveredMail) -> UndeliveredMailRecord:
    return UndeliveredMailRecord(*row[:-1], row.changed_at.astimezone(UTC))

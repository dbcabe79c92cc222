"""`GET actions`: the audit log (SPEC 10)."""

import re
from datetime import UTC, datetime

from msgspec import UNSET, Struct, UnsetType

from daemon.api.endpoints import JSON, Call, Dependencies, Endpoint
from daemon.api.parameters import PAGE, Cursor, Limit, page, position
from daemon.ledger import audit
from daemon.runtime.http.auth import Scope

POSITION = re.compile(r"[0-9]{1,18}", re.ASCII)


class ActionsQuery(Struct, forbid_unknown_fields=True):
    """Which page of the audit log."""

    limit: Limit = PAGE
    cursor: Cursor | UnsetType = UNSET


class Action(Struct, rename="camel"):
    """What an operator did, to a donation, an event or a ticket. `hash` is null until the chain has the action."""

    id: int
    at: datetime
    by: str
    action: str
    donation: str | None
    event: str | None
    ticket: str | None
    detail: str
    hash: str | None


class Actions(Struct, rename="camel"):
    """A page of the audit log, newest first. `newest_hash` is that of the whole chain: note it elsewhere from time to
    time, for `donationd verify --audit-hash` to compare."""

    newest_hash: str | None
    actions: list[Action]
    next_cursor: str | None


async def list_actions(deps: Dependencies, _call: Call, query: ActionsQuery) -> Actions:
    """What operators did, newest first, and the newest hash of the audit log's chain."""
    after = position(query.cursor, POSITION)
    rows = await audit.actions(deps.database, query.limit + 1, before=int(after[0]) if after else None)
    shown, next_cursor = page(rows, query.limit, lambda row: str(row.id))
    return Actions(
        newest_hash=await audit.newest_hash(deps.database),
        actions=[_action(row) for row in shown],
        next_cursor=next_cursor,
    )


def _action(row: audit.ActionRow) -> Action:
    subjects = row.donation, row.event, row.ticket
    return Action(row.id, row.at.astimezone(UTC), row.by, row.action, *subjects, row.detail, row.hash)


ENDPOINTS = [Endpoint("GET", "actions", Scope.READ, list_actions, ActionsQuery, {JSON: Actions})]

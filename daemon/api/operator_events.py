"""The events that could not be applied: listed, and dismissed (SPEC 8, 10)."""

from datetime import UTC, datetime

from aiohttp import web
from msgspec import UNSET, Struct, UnsetType

from daemon.api.endpoints import JSON, Call, Dependencies, Endpoint
from daemon.api.parameters import PAGE, Cursor, EventId, Limit, opaque, place
from daemon.ledger import queues
from daemon.ledger.operators import Dismissal
from daemon.ledger.queues import FAILED_PLACE
from daemon.runtime.http.auth import Scope


class FailedEventsQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    """Which failed events: those that wait, or with `all` the dismissed ones too."""

    all: bool = False
    limit: Limit = PAGE
    cursor: Cursor | UnsetType = UNSET


class EventPath(Struct, forbid_unknown_fields=True):
    """An event."""

    id: EventId


class FailedEventRecord(Struct, rename="camel"):
    """An event that could not be applied, with the reason, which contains no value of the event."""

    id: str
    type: str
    created_at: datetime
    received_at: datetime
    error: str
    dismissed_at: datetime | None


class FailedEventPage(Struct, rename="camel"):
    """A page of failed events, received last first."""

    events: list[FailedEventRecord]
    next_cursor: str | None


class EventDismissed(Struct):
    """The event that waits no more, and who dismissed it."""

    event: str
    by: str


def endpoints(deps: Dependencies) -> list[Endpoint]:
    """The endpoints of failed events."""

    async def list_failed_events(_call: Call, query: FailedEventsQuery) -> FailedEventPage:
        """Lists the events that could not be applied, received last first."""
        after = place(query.cursor, FAILED_PLACE)
        rows = await queues.failed_events(deps.database, query.limit + 1, with_dismissed=query.all, after=after)
        shown = rows[: query.limit]
        more = len(rows) > query.limit
        return FailedEventPage([_record(row) for row in shown], opaque(shown[-1].place) if more else None)

    async def dismiss_event(call: Call, path: EventPath) -> EventDismissed:
        """Dismisses an event that could not be applied and is not needed: it keeps its reason, and waits no more."""
        outcome, _ = await deps.operators.dismiss(path.id, actor=call.operator)
        if outcome is Dismissal.UNKNOWN:
            raise web.HTTPNotFound(text=f"there is no event {path.id}")
        if outcome is not Dismissal.DONE:
            raise web.HTTPConflict(text=CONFLICTS[outcome])
        return EventDismissed(path.id, call.operator)

    errors = {404: "there is no such event", 409: "it did not fail, or was dismissed before"}
    return [
        Endpoint("GET", "failed-events", Scope.READ, list_failed_events, FailedEventsQuery, {JSON: FailedEventPage}),
        Endpoint(
            *("POST", "failed-events/{id}/dismiss", Scope.ACT, dismiss_event, EventPath, {JSON: EventDismissed}), errors
        ),
    ]


CONFLICTS = {
    Dismissal.NOT_FAILED: "this event did not fail, so there is nothing to dismiss",
    Dismissal.DONE_BEFORE: "this event was dismissed before; GET /api/operator/actions says who did it",
    Dismissal.CHANGED: "this event was changed at this moment by another process: read the list again",
}


def _record(row: queues.FailedEvent) -> FailedEventRecord:
    dismissed_at = row.dismissed_at.astimezone(UTC) if row.dismissed_at else None
    times = row.created_at.astimezone(UTC), row.received_at.astimezone(UTC)
    return FailedEventRecord(row.id, row.type, *times, row.error, dismissed_at)

"""The events that could not be applied: listed, and dismissed (SPEC 8, 10)."""

from datetime import UTC, datetime

from aiohttp import web
from msgspec import UNSET, Struct, UnsetType

from daemon.api.endpoints import JSON, Call, Dependencies, Endpoint
from daemon.api.parameters import PAGE, Cursor, EventId, Limit, page, position
from daemon.ledger import queues
from daemon.ledger.changes import Result
from daemon.ledger.operators import Dismissal
from daemon.ledger.queues import FAILED_POSITION
from daemon.ledger.stripe_events import NotAnEvent
from daemon.runtime.http.auth import Scope
from daemon.stripe_api.client import StripeRejected, StripeUnavailable


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


class EventReplayed(Struct):
    """What became of an event that was read from Stripe again, and who asked for that. `error` is the reason why it
    still cannot be applied, without any value of the event; null if it was applied."""

    event: str
    by: str
    result: Result
    error: str | None


async def list_failed_events(deps: Dependencies, _call: Call, query: FailedEventsQuery) -> FailedEventPage:
    """Lists the events that could not be applied, received last first."""
    after = position(query.cursor, FAILED_POSITION)
    rows = await queues.failed_events(deps.database, query.limit + 1, with_dismissed=query.all, after=after)
    shown, next_cursor = page(rows, query.limit, lambda row: row.position)
    return FailedEventPage([_record(row) for row in shown], next_cursor)


async def dismiss_event(deps: Dependencies, call: Call, path: EventPath) -> EventDismissed:
    """Dismisses an event that could not be applied and is not needed: it keeps its reason, and waits no more."""
    outcome, _ = await deps.operators.dismiss(path.id, actor=call.operator)
    if outcome is Dismissal.UNKNOWN:
        raise web.HTTPNotFound(text=f"there is no event {path.id}")
    if outcome is not Dismissal.DONE:
        raise web.HTTPConflict(text=CONFLICTS[outcome])
    return EventDismissed(path.id, call.operator)


async def replay_event(deps: Dependencies, call: Call, path: EventPath) -> EventReplayed:
    """Reads an event that could not be applied from Stripe again, and applies it if this release can."""
    if deps.event_replay is None:
        raise web.HTTPConflict(text="STRIPE_API_KEY is not set, so no event can be read from Stripe")
    failed = await deps.operators.begin_replay(path.id, actor=call.operator)
    if failed is None:
        raise web.HTTPNotFound(text=f"there is no event {path.id}")
    if not failed:
        raise web.HTTPConflict(text=CONFLICTS[Dismissal.NOT_FAILED])
    try:
        outcome = await deps.event_replay.replay(path.id)
    except StripeUnavailable as problem:
        raise web.HTTPServiceUnavailable(text=f"{problem}: try again later") from None
    except (StripeRejected, NotAnEvent) as problem:
        raise web.HTTPBadGateway(text=str(problem)) from None
    if outcome is None:
        raise web.HTTPGone(text=f"Stripe does not have event {path.id} any more: donationd reconcile")
    return EventReplayed(path.id, call.operator, outcome.result, outcome.error)


CONFLICTS = {
    Dismissal.NOT_FAILED: "this event did not fail: it was applied, or it changes nothing",
    Dismissal.DONE_BEFORE: "this event was dismissed before; GET /api/operator/actions says who did it",
    Dismissal.CHANGED: "this event was changed at this moment by another process: read the list again",
}


def _record(row: queues.FailedEvent) -> FailedEventRecord:
    dismissed_at = row.dismissed_at.astimezone(UTC) if row.dismissed_at else None
    times = row.created_at.astimezone(UTC), row.received_at.astimezone(UTC)
    return FailedEventRecord(row.id, row.type, *times, row.error, dismissed_at)


ENDPOINTS = [
    Endpoint("GET", "failed-events", Scope.READ, list_failed_events, FailedEventsQuery, {JSON: FailedEventPage}),
    Endpoint(
        "POST",
        "failed-events/{id}/dismiss",
        Scope.ACT,
        dismiss_event,
        EventPath,
        {JSON: EventDismissed},
        {404: "there is no such event", 409: "it did not fail, or was dismissed before"},
    ),
    Endpoint(
        "POST",
        "failed-events/{id}/replay",
        Scope.ACT,
        replay_event,
        EventPath,
        {JSON: EventReplayed},
        {
            404: "there is no such event",
            409: "it did not fail, or STRIPE_API_KEY is not set",
            410: "Stripe does not have it any more",
            502: "Stripe rejects the call",
            503: "Stripe does not answer, or the database cannot be used now",
        },
    ),
]

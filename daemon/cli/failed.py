"""What `donationd failed list` and `failed dismiss` do."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import click
import msgspec

from daemon.cli.arguments import Failure
from daemon.cli.database import ask
from daemon.ledger.donation import minute
from sql import load
from sql.connection import Row


class FailedEvent(NamedTuple):
    """A row of list_failed.sql."""

    id: str
    type: str
    created_at: datetime
    received_at: datetime
    error: str
    dismissed_at: datetime | None
    total: int


class DismissedRow(NamedTuple):
    """The row of dismiss_event.sql: whether it dismissed the event, and how the event was before."""

    done: bool
    error: str | None
    dismissed_at: datetime | None


def print_all(limit: int, *, with_dismissed: bool, as_json: bool) -> None:
    """Prints the events that could not be applied."""
    rows = ask(lambda database: database.fetch(load("list_failed"), {"all": with_dismissed, "limit": limit}))
    events = [FailedEvent(*row) for row in rows]
    for line in map(_as_json, events) if as_json else _table(events, with_dismissed):
        click.echo(line)
    click.echo(f"{len(events)} of {events[0].total if events else 0} events that could not be applied", err=True)
    if waiting := next((event.id for event in events if event.dismissed_at is None), None):
        click.echo(f"next: install a release that can apply them, or donationd failed dismiss {waiting}", err=True)


def _as_json(event: FailedEvent) -> bytes:
    return msgspec.json.encode(
        {
            "id": event.id,
            "type": event.type,
            "createdAt": _utc(event.created_at),
            "receivedAt": _utc(event.received_at),
            "error": event.error,
            "dismissedAt": _utc(event.dismissed_at),
        }
    )


def _utc(moment: datetime | None) -> datetime | None:
    return moment.astimezone(UTC) if moment else None


def _table(events: Sequence[FailedEvent], with_dismissed: bool) -> Iterator[str]:
    """A line per event below a line of titles; the reason, which may be long, comes last."""
    titles = ["EVENT", "TYPE", "CREATED", "RECEIVED", *(["DISMISSED"] if with_dismissed else []), "REASON"]
    lines = [titles, *(_cells(event, with_dismissed) for event in events)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines if events else []:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def _cells(event: FailedEvent, with_dismissed: bool) -> list[str]:
    dismissed = [_minute(event.dismissed_at)] if with_dismissed else []
    return [event.id, event.type, _minute(event.created_at), _minute(event.received_at), *dismissed, event.error]


def _minute(moment: datetime | None) -> str:
    return minute(moment) if moment else "-"


def dismiss(event: str, actor: str) -> None:
    """Dismisses an event that could not be applied."""
    rows = ask(lambda database: database.fetch(load("dismiss_event"), {"id": event, "actor": actor}))
    if problem := _problem(event, rows):
        raise Failure(problem)
    click.echo(f"dismissed {event}")


def _problem(event: str, rows: Sequence[Row]) -> str | None:
    """Why an event was not dismissed, from the row of dismiss_event.sql; None if it was."""
    if not rows:
        return f"there is no event {event}; the failed ones are listed by: donationd failed list"
    row = DismissedRow._make(rows[0])
    if row.done:
        return None
    if row.error is None:
        return f"event {event} did not fail: it was applied, or it changes nothing, so there is nothing to dismiss"
    if row.dismissed_at is not None:
        return f"event {event} was dismissed before, at {minute(row.dismissed_at)} UTC; who did it: donationd audit"
    return f"event {event} was changed at this moment by another process; list them again: donationd failed list --all"

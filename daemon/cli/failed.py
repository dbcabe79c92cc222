"""What `donationd failed list` and `failed dismiss` do."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import click
import msgspec

from daemon.cli.arguments import Failure
from daemon.cli.database import ask
from daemon.ledger import queues
from daemon.ledger.donation import minute
from daemon.ledger.operators import Dismissal, Operators
from daemon.ledger.queues import FailedEvent
from daemon.ledger.recorder import Recorder
from sql.database import Database


def print_all(limit: int, *, with_dismissed: bool, as_json: bool) -> None:
    """Prints the events that could not be applied."""
    events, total = ask(lambda database: _read(database, limit, with_dismissed=with_dismissed))
    for line in map(_as_json, events) if as_json else _table(events, with_dismissed):
        click.echo(line)
    click.echo(f"{len(events)} of {total} events that could not be applied", err=True)
    if waiting := next((event.id for event in events if event.dismissed_at is None), None):
        click.echo(f"next: install a release that can apply them, or donationd failed dismiss {waiting}", err=True)


async def _read(database: Database, limit: int, *, with_dismissed: bool) -> tuple[list[FailedEvent], int]:
    events = await queues.failed_events(database, limit, with_dismissed=with_dismissed)
    return events, await queues.count_failed(database, with_dismissed=with_dismissed)


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
    outcome, before = ask(lambda database: Operators(database, Recorder(database)).dismiss(event, actor=actor))
    if outcome is not Dismissal.DONE:
        raise Failure(PROBLEMS[outcome].format(event=event, time=_minute(before)))
    click.echo(f"dismissed {event}")


PROBLEMS = {
    Dismissal.UNKNOWN: "there is no event {event}; the failed ones are listed by: donationd failed list",
    Dismissal.NOT_FAILED: (
        "event {event} did not fail: it was applied, or it changes nothing, so there is nothing to dismiss"
    ),
    Dismissal.DONE_BEFORE: "event {event} was dismissed before, at {time} UTC; who did it: donationd audit",
    Dismissal.CHANGED: (
        "event {event} was changed at this moment by another process; list them again: donationd failed list --all"
    ),
}

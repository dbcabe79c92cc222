"""Reports for tests: a ledger of random payments within two years, and what a program reads from a report."""

import json
import random
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from daemon.ledger.changes import ReceivedEvent
from daemon.ledger.recorder import Recorder
from daemon.ledger.stripe_events import read
from daemon.reports.presentation import Form, Report, as_json
from daemon.simulator import sender
from daemon.simulator.stripe_objects import Json
from sql.database import Database
from tests.simulator.random_payments import random_scenario

TICKETS = ["story-1", "story-2", "story-3"]
BEGIN, END = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) for year in (2024, 2026))


def random_events(seed: int, payments: int) -> list[Json]:
    """Events of random payments, in no order."""
    rng = random.Random(seed)
    several = [
        random_scenario(rng, TICKETS, key=f"s{seed}n{number}", start=rng.randrange(BEGIN, END))
        for number in range(payments)
    ]
    events = [event for each in several for event in each.events]
    rng.shuffle(events)
    return events


async def record(database: Database, events: Iterable[Json], batch: int = 20) -> None:
    """Writes events into the ledger, some at a time."""
    received = [ReceivedEvent(read(sender.encode(event), livemode=False, hash_key=None)) for event in events]
    for first in range(0, len(received), batch):
        await Recorder(database).record(received[first : first + batch])


async def text_of(report: Report, form: Form = as_json) -> str:
    """A report in one of its forms."""
    return "".join([part async for part in form(report)])


async def json_of(report: Report) -> dict[str, Any]:
    """What a program reads from the JSON; amounts as they are written."""
    found: dict[str, Any] = json.loads(await text_of(report), parse_float=str, parse_int=str)
    return found

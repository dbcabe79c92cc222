"""What an operator wants to know first: all money together, what was recorded lately, and what needs a person."""

from datetime import datetime
from typing import NamedTuple

from daemon.reports.early_warnings import State, read_warnings
from sql import load
from sql.database import Database

ENTRIES_COUNTED = 5_000


class CurrencyTotals(NamedTuple):
    """A row of sum_tickets.sql."""

    currency: str
    paid_minor: int
    refunded_minor: int
    disputed_minor: int
    donations: int

    @property
    def net_minor(self) -> int:
        """net = paid - refunded - disputed (SPEC 3)."""
        return self.paid_minor - self.refunded_minor - self.disputed_minor


class Activity(NamedTuple):
    """A row of recent_activity.sql. `entries` of ENTRIES_COUNTED stands for this number or more."""

    seq: int | None
    recorded_at: datetime | None
    entries: int


class Waiting(NamedTuple):
    """How much needs a person."""

    unassigned: int
    failed_events: int
    early_warnings: int
    undelivered_mail: int


class HealthRun(NamedTuple):
    """A row of list_health_runs.sql: a run of the startup gate, or a change of the database's readiness."""

    id: int
    at: datetime
    kind: str
    ok: bool
    state: str
    detail: str


async def totals(database: Database) -> list[CurrencyTotals]:
    """What all donations add up to, per currency, the one with the most donations first."""
    return list(map(CurrencyTotals._make, await database.fetch(load("sum_tickets"))))


async def activity(database: Database) -> Activity:
    """What was recorded lately."""
    return Activity._make((await database.fetch(load("recent_activity"), {"limit": ENTRIES_COUNTED}))[0])


async def waiting(database: Database) -> Waiting:
    """How much needs a person."""
    [(unassigned, failed, undelivered, _delay_s)] = await database.fetch(load("count_backlog"))
    open_ = [warning for warning in await read_warnings(database) if warning.state is State.OPEN]
    return Waiting(unassigned, failed, len(open_), undelivered)


async def health_runs(database: Database, limit: int, before: int | None = None) -> list[HealthRun]:
    """The health history, recorded last first, from before the run with an id."""
    rows = await database.fetch(load("list_health_runs"), {"limit": limit, "before": before})
    return list(map(HealthRun._make, rows))

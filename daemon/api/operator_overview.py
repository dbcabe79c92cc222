"""What the operator console shows first: an overview, what moved lately, and the health history."""

import re
from datetime import UTC, date, datetime
from typing import Literal
from zoneinfo import ZoneInfo

from msgspec import UNSET, Struct, UnsetType

from daemon.api.endpoints import JSON, Call, Dependencies, Endpoint
from daemon.api.parameters import PAGE, Amount, Cursor, Limit, TicketId, amount, page, position
from daemon.reports import daily_sums, overview
from daemon.reports.entry_sums import Figures
from daemon.reports.overview import ENTRIES_COUNTED, CurrencyTotals, HealthRun
from daemon.reports.periods import Unit
from daemon.runtime.http.auth import Scope

POSITION = re.compile(r"[0-9]{1,18}", re.ASCII)
RUNS_SHOWN = 5


class OverviewQuery(Struct, forbid_unknown_fields=True):
    """No parameters."""


class HealthRunsQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    """Which page of the health history."""

    limit: Limit = PAGE
    cursor: Cursor | UnsetType = UNSET


class RecentQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    """The last 31 days, 26 weeks or 24 months, of one ticket or of all."""

    by: Literal["day", "week", "month"] = "day"
    ticket: TicketId | UnsetType = UNSET


class TotalsRecord(Struct, rename="camel"):
    """What all donations of a currency add up to."""

    currency: str
    donations: int
    paid: Amount
    refunded: Amount
    disputed: Amount
    net: Amount


class WaitingRecord(Struct, rename="camel"):
    """How much needs a person."""

    unassigned: int
    failed_events: int
    early_warnings: int
    undelivered_mail: int


class HealthRunRecord(Struct, rename="camel"):
    """A run of the startup gate, or a change of the database's readiness."""

    at: datetime
    kind: str
    ok: bool
    state: str
    detail: str


class OverviewRecord(Struct, rename="camel"):
    """All money together, what needs a person, what was recorded lately, and the newest lines of the health history.
    `entriesAreMore`: there were perhaps more than `entriesLastHour`, which are not counted."""

    at: datetime
    totals: list[TotalsRecord]
    waiting: WaitingRecord
    entries_last_hour: int
    entries_are_more: bool
    last_seq: int | None
    last_recorded_at: datetime | None
    health: list[HealthRunRecord]


class HealthRunPage(Struct, rename="camel"):
    """A page of the health history, recorded last first."""

    runs: list[HealthRunRecord]
    next_cursor: str | None


class RecentFigures(Struct, rename="camel"):
    """What moved in a period, which begins with this day."""

    begin: date
    payments: Amount
    refunds: Amount
    disputes: Amount
    net: Amount


class RecentCurrency(Struct):
    """What moved in one currency, the oldest period first."""

    currency: str
    periods: list[RecentFigures]


class RecentReport(Struct, rename="camel"):
    """What moved lately, up to the entry `seq`, which was added at `addedAt`. Both are null until the sums have been
    made for the first time."""

    by: str
    ticket: str | None
    time_zone: str
    seq: int | None
    added_at: datetime | None
    currencies: list[RecentCurrency]


async def show_overview(deps: Dependencies, _call: Call, _query: OverviewQuery) -> OverviewRecord:
    """All money together, what needs a person, what was recorded lately, and the newest lines of the health
    history; it costs the same however large the ledger is."""
    activity = await overview.activity(deps.database)
    return OverviewRecord(
        at=datetime.now(UTC).replace(microsecond=0),
        totals=[_totals(row) for row in await overview.totals(deps.database)],
        waiting=WaitingRecord(*await overview.waiting(deps.database)),
        entries_last_hour=activity.entries,
        entries_are_more=activity.entries == ENTRIES_COUNTED,
        last_seq=activity.seq,
        last_recorded_at=activity.recorded_at and activity.recorded_at.astimezone(UTC),
        health=[_run(run) for run in await overview.health_runs(deps.database, RUNS_SHOWN)],
    )


async def list_health_runs(deps: Dependencies, _call: Call, query: HealthRunsQuery) -> HealthRunPage:
    """The runs of the startup gate and the changes of the database's readiness, recorded last first."""
    after = position(query.cursor, POSITION)
    rows = await overview.health_runs(deps.database, query.limit + 1, int(after[0]) if after else None)
    shown, next_cursor = page(rows, query.limit, lambda row: str(row.id))
    return HealthRunPage([_run(row) for row in shown], next_cursor)


async def report_recent(deps: Dependencies, _call: Call, query: RecentQuery) -> RecentReport:
    """What moved in each of the last days, weeks or months, for charts: from sums that are kept per day, some
    seconds old. `reports/series` adds up the journal itself, of any period and as of any moment."""
    zone = deps.report_time_zone
    found = await daily_sums.recent(
        deps.database, Unit(query.by), zone, datetime.now(ZoneInfo(zone)).date(), query.ticket or None
    )
    return RecentReport(
        by=query.by,
        ticket=query.ticket or None,
        time_zone=zone,
        seq=found.seq,
        added_at=found.added_at and found.added_at.astimezone(UTC),
        currencies=[
            RecentCurrency(currency, [_figures(*each, currency) for each in zip(found.begins, sums, strict=True)])
            for currency, sums in found.by_currency.items()
        ],
    )


def _totals(row: CurrencyTotals) -> TotalsRecord:
    minor = row.paid_minor, row.refunded_minor, row.disputed_minor, row.net_minor
    return TotalsRecord(row.currency, row.donations, *(amount(each, row.currency) for each in minor))


def _run(run: HealthRun) -> HealthRunRecord:
    return HealthRunRecord(run.at.astimezone(UTC), run.kind, run.ok, run.state, run.detail)


def _figures(begin: date, figures: Figures, currency: str) -> RecentFigures:
    return RecentFigures(begin, *(amount(each, currency) for each in (*figures, figures.net)))


ENDPOINTS = [
    Endpoint("GET", "overview", Scope.READ, show_overview, OverviewQuery, {JSON: OverviewRecord}),
    Endpoint("GET", "health-runs", Scope.READ, list_health_runs, HealthRunsQuery, {JSON: HealthRunPage}),
    Endpoint("GET", "reports/recent", Scope.READ, report_recent, RecentQuery, {JSON: RecentReport}),
]

"""The early fraud warnings, which operators dismiss, and `GET reports/fraud`: all signals of fraud (SPEC 10, 11)."""

import re
from datetime import UTC, datetime
from typing import Annotated, Literal

from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType

from daemon.api.endpoints import JSON, Call, Dependencies, Endpoint
from daemon.api.parameters import PAGE, Amount, Cursor, Limit, amount, page, position
from daemon.reports.early_warnings import EarlyWarning, State, dismiss_warning, find_warning, read_warnings
from daemon.reports.fraud import Level, Name, Signal
from daemon.reports.fraud_report import find_signals
from daemon.runtime.http.auth import Scope

WarningId = Annotated[
    str, Meta(pattern="^issfr_[A-Za-z0-9_]{1,249}$", description="the id of a warning, such as issfr_1PqXb2Lkd")
]
POSITION = re.compile(r"(?P<made_at>[0-9]{1,12}):(?P<id>issfr_[A-Za-z0-9_]{1,249})", re.ASCII)


class WarningsQuery(Struct, forbid_unknown_fields=True):
    """Which page of the warnings; those that wait for a decision, unless `state` is `all`."""

    state: Annotated[Literal["open", "all"], Meta(description="open or all")] = "open"
    limit: Limit = PAGE
    cursor: Cursor | UnsetType = UNSET


class Warned(Struct, rename="camel"):
    """An early fraud warning. `cost` is what is not refunded yet of the donation: a refund now costs it, a dispute
    later costs it and Stripe's fee. It is null while the amount is not known."""

    id: str
    created_at: datetime
    kind: str
    state: State
    donation: str
    charge: str
    ticket: str | None
    currency: str | None
    cost: Amount | None
    reason: str


class WarningPath(Struct, forbid_unknown_fields=True):
    """An early fraud warning."""

    id: WarningId


class WarningDismissed(Struct):
    """The warning that waits no more, and who dismissed it."""

    warning: str
    by: str


class FraudQuery(Struct, forbid_unknown_fields=True):
    """No parameters: the signals are those of the last 24 hours."""


class ShownSignal(Struct, rename="camel"):
    """A signal of fraud. `subject` is the id of what `by` names; an empty account is the charity's own."""

    name: Name
    level: Level
    by: str
    subject: str
    reason: str
    since: datetime
    until: datetime
    tickets: list[str]


class FraudReport(Struct, rename="camel"):
    """The signals of fraud of the 24 hours until `at`, alarms first."""

    at: datetime
    signals: list[ShownSignal]


class WarningsPage(Struct, rename="camel"):
    """A page of early fraud warnings, newest first."""

    warnings: list[Warned]
    next_cursor: str | None


async def list_early_warnings(deps: Dependencies, _call: Call, query: WarningsQuery) -> WarningsPage:
    """The early fraud warnings, newest first, with what each decision costs."""
    after = position(query.cursor, POSITION)
    warnings = [
        warning
        for warning in await read_warnings(deps.database)
        if (query.state == "all" or warning.state is State.OPEN)
        and (after is None or (-warning.made_at, warning.id) > (-int(after["made_at"]), after["id"]))
    ]
    shown, next_cursor = page(warnings, query.limit, lambda warning: f"{warning.made_at}:{warning.id}")
    return WarningsPage([_warned(warning, deps.dispute_fee) for warning in shown], next_cursor)


async def dismiss_early_warning(deps: Dependencies, call: Call, path: WarningPath) -> WarningDismissed:
    """Dismisses an early fraud warning that was examined and asks for no refund: it waits no more. Nothing changes
    at Stripe."""
    warning = await find_warning(deps.database, path.id)
    if warning is None:
        raise web.HTTPNotFound(text=f"there is no early fraud warning {path.id}")
    is_done = warning.state is State.OPEN and await dismiss_warning(deps.database, warning, actor=call.operator)
    if not is_done:
        raise web.HTTPConflict(text="this warning does not wait for a decision any more: read the list again")
    return WarningDismissed(path.id, call.operator)


async def report_fraud(deps: Dependencies, _call: Call, _query: FraudQuery) -> FraudReport:
    """What `donationd report fraud` prints: each signal of fraud with its reason."""
    now = datetime.now(UTC).replace(microsecond=0)
    signals = await find_signals(deps.database, deps.fraud_thresholds, now, deps.dispute_fee)
    return FraudReport(now, list(map(_shown, signals)))


def _shown(signal: Signal) -> ShownSignal:
    times = datetime.fromtimestamp(signal.since, UTC), datetime.fromtimestamp(signal.until, UTC)
    subject = signal.name, signal.level, signal.by, signal.subject, signal.reason
    return ShownSignal(*subject, *times, list(signal.tickets))


def _warned(warning: EarlyWarning, dispute_fee: str | None) -> Warned:
    known = warning.cost_minor is not None and warning.currency is not None
    return Warned(
        id=warning.id,
        created_at=datetime.fromtimestamp(warning.made_at, UTC),
        kind=warning.kind,
        state=warning.state,
        donation=warning.donation,
        charge=warning.charge,
        ticket=warning.ticket,
        currency=warning.currency,
        cost=amount(warning.cost_minor or 0, warning.currency) if known else None,
        reason=warning.reason(dispute_fee),
    )


ENDPOINTS = [
    Endpoint("GET", "early-warnings", Scope.READ, list_early_warnings, WarningsQuery, {JSON: WarningsPage}),
    Endpoint(
        "POST",
        "early-warnings/{id}/dismiss",
        Scope.ACT,
        dismiss_early_warning,
        WarningPath,
        {JSON: WarningDismissed},
        {404: "there is no such warning", 409: "it does not wait for a decision"},
    ),
    Endpoint("GET", "reports/fraud", Scope.READ, report_fraud, FraudQuery, {JSON: FraudReport}, is_slow=True),
]

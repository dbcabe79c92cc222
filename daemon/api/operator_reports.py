"""Reports over HTTP: each is what `donationd report` prints, as JSON or CSV (SPEC 10, 11)."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Annotated, Any, Literal

from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType, field

from daemon.api.endpoints import CSV, JSON, LEDGER_SEQ, Call, Dependencies, Endpoint, Stream
from daemon.api.parameters import Limit, TicketId
from daemon.ledger.reader import Moment
from daemon.reports import closings, income, payouts, statistics
from daemon.reports.closings import NotClosed
from daemon.reports.entry_sums import MomentInFuture
from daemon.reports.income import TooManyPeriods
from daemon.reports.payouts import UnknownPayout
from daemon.reports.periods import EXAMPLES, NoPeriod, Period, Unit
from daemon.reports.presentation import Report, as_csv, as_json
from daemon.reports.statistics import Selection
from daemon.reports.tickets import UnknownTicket
from daemon.reports.time_zones import UnknownTimeZone, load_time_zone
from daemon.runtime.http.auth import Scope

FORMS = {JSON: as_json, CSV: as_csv}
DAY = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
MAX_VERSION = 1_000_000

PeriodText = Annotated[
    str,
    Meta(
        pattern=rf"^([0-9]{{4}}(-[Qq][1-4]|-[0-9]{{2}}|-[Ww][0-9]{{2}})?|{DAY}|{DAY}\.\.{DAY})$",
        description=f"a period such as {EXAMPLES}",
    ),
]
TimeZone = Annotated[
    str, Meta(pattern="^[A-Za-z0-9_+/-]{1,64}$", description="the IANA name of a time zone, such as Europe/Berlin")
]
MomentText = Annotated[
    str,
    Meta(pattern="^[0-9TZtz:.+-]{1,40}$", description="an entry's number, or a time such as 2026-01-31T00:00:00Z"),
]
PayoutId = Annotated[
    str, Meta(pattern="^po_[A-Za-z0-9]{1,250}$", description="the id of a payout, such as po_1PqXb2Lkd")
]
Version = Annotated[int, Meta(ge=1, le=MAX_VERSION, description="the number of a version of a closed report")]
NO_TICKET = {404: "there is no such ticket"}
REPLIES = {JSON: dict[str, Any], CSV: str}


class IncomeQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    """Of which period, ticket and moment."""

    period: PeriodText
    tz: TimeZone | UnsetType = UNSET
    ticket: TicketId | UnsetType = UNSET
    as_of: MomentText | UnsetType = field(default=UNSET, name="asOf")


class SeriesQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    """As IncomeQuery, without a period for all times; and what each row is about."""

    by: Literal["day", "week", "month"]
    period: PeriodText | UnsetType = UNSET
    tz: TimeZone | UnsetType = UNSET
    ticket: TicketId | UnsetType = UNSET
    as_of: MomentText | UnsetType = field(default=UNSET, name="asOf")


class RestatedQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    """Which closed report, and as of which moment."""

    period: PeriodText
    tz: TimeZone | UnsetType = UNSET
    version: Version | UnsetType = UNSET
    as_of: MomentText | UnsetType = field(default=UNSET, name="asOf")


class PayoutsQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    """Which payouts: of a period, or one; otherwise all."""

    period: PeriodText | UnsetType = UNSET
    tz: TimeZone | UnsetType = UNSET
    payout: PayoutId | UnsetType = UNSET


class SummaryQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    """Which donations."""

    period: PeriodText | UnsetType = UNSET
    tz: TimeZone | UnsetType = UNSET
    ticket: TicketId | UnsetType = UNSET


class TicketsReportQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    """Which donations."""

    period: PeriodText | UnsetType = UNSET
    tz: TimeZone | UnsetType = UNSET


class DonorsQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    """Which donations, and which of their donors."""

    period: PeriodText | UnsetType = UNSET
    tz: TimeZone | UnsetType = UNSET
    ticket: TicketId | UnsetType = UNSET
    order: Literal["amount", "donations"] = "amount"
    limit: Limit = 20


async def report_income(deps: Dependencies, call: Call, query: IncomeQuery) -> Stream:
    """The payments, refunds, disputes and fees of a period, per currency and ticket. With the same
    asOf it is the same at any later time.
    """
    period = _period(deps, query.period, query.tz)
    made = income.income(deps.database, period, moment=_moment(query.as_of), ticket=query.ticket or None)
    return await _stream(call, made)


async def report_series(deps: Dependencies, call: Call, query: SeriesQuery) -> Stream:
    """The same for each day, week or month, from the journal."""
    made = income.income_series(
        deps.database,
        Unit(query.by),
        _zone(deps, query.tz),
        _period(deps, query.period, query.tz) if query.period else None,
        moment=_moment(query.as_of),
        ticket=query.ticket or None,
    )
    return await _stream(call, made)


async def report_restated(deps: Dependencies, call: Call, query: RestatedQuery) -> Stream:
    """A closed period as it was filed, as it is now, and every entry of the journal between them."""
    period = _period(deps, query.period, query.tz)
    made = closings.restated(
        deps.database, period, version=query.version or None, moment=_moment(query.as_of)
    )  # fmt: skip
    return await _stream(call, made)


async def report_payouts(deps: Dependencies, call: Call, query: PayoutsQuery) -> Stream:
    """The payouts that arrived in a period, each with the balance transactions that it is the sum of. One that does
    not add up is marked with the difference; manual and instant payouts are not attributable."""
    period = _period(deps, query.period, query.tz) if query.period else None
    return await _stream(call, payouts.payouts(deps.database, _zone(deps, query.tz), period, query.payout or None))


async def report_summary(deps: Dependencies, call: Call, query: SummaryQuery) -> Stream:
    """Number, sums, average, median and largest amount of the paid donations as they are now, and the donors."""
    return await _stream(call, statistics.summary(deps.database, _selection(deps, query)))


async def report_tickets(deps: Dependencies, call: Call, query: TicketsReportQuery) -> Stream:
    """What was given for each ticket, from the paid donations as they are now."""
    return await _stream(call, statistics.tickets(deps.database, _selection(deps, query)))


async def report_donors(deps: Dependencies, call: Call, query: DonorsQuery) -> Stream:
    """The largest donors of each currency, or those with the most donations, by e-mail hash."""
    made = statistics.donors(
        deps.database, _selection(deps, query), limit=query.limit, by_donations=query.order == "donations"
    )
    return await _stream(call, made)


def _zone(deps: Dependencies, given: str | UnsetType) -> str:
    try:
        return load_time_zone(given).key if given else deps.report_time_zone
    except UnknownTimeZone as problem:
        raise web.HTTPBadRequest(text=f"tz: {problem}") from None


def _period(deps: Dependencies, text: str, zone: str | UnsetType) -> Period:
    try:
        return Period.parse(text, _zone(deps, zone))
    except NoPeriod as problem:
        raise web.HTTPBadRequest(text=f"period: {problem}") from None


def _selection(deps: Dependencies, query: SummaryQuery | TicketsReportQuery | DonorsQuery) -> Selection:
    ticket = getattr(query, "ticket", UNSET) or None
    return Selection(_zone(deps, query.tz), _period(deps, query.period, query.tz) if query.period else None, ticket)


def _moment(text: str | UnsetType) -> Moment | None:
    try:
        return Moment.parse(text) if text else None
    except ValueError:
        raise web.HTTPBadRequest(text="asOf: an entry's number, or a time such as 2026-01-31T00:00:00Z") from None


async def _stream(call: Call, made: Awaitable[Report]) -> Stream:
    """The report in the form that the client prefers; an error that the client can do something about, as its reply."""
    try:
        report = await made
    except MomentInFuture as problem:
        raise web.HTTPBadRequest(text=f"asOf: {problem}") from None
    except TooManyPeriods as problem:
        raise web.HTTPBadRequest(text=f"by: {problem}") from None
    except (NotClosed, UnknownPayout, UnknownTicket) as problem:
        raise web.HTTPNotFound(text=str(problem)) from None

    async def parts() -> AsyncGenerator[bytes, None]:
        async for part in FORMS[call.media_type](report):
            yield part.encode()

    return Stream(parts(), {LEDGER_SEQ: str(report.head["seq"])})


def _endpoint(
    name: str,
    handler: Callable[[Dependencies, Call, Any], Awaitable[Stream]],
    parameters: type[Any],
    errors: dict[int, str],
) -> Endpoint:
    return Endpoint(
        "GET",
        f"reports/{name}",
        Scope.READ,
        handler,
        parameters,
        REPLIES,
        errors=errors,
        is_slow=True,
        has_ledger_seq=True,
    )


# One for each report. They take the places of exports: several would keep the database busy.
ENDPOINTS = [
    _endpoint("income", report_income, IncomeQuery, NO_TICKET),
    _endpoint("series", report_series, SeriesQuery, NO_TICKET),
    _endpoint("restated", report_restated, RestatedQuery, {404: "there is no such closed report"}),
    _endpoint("payouts", report_payouts, PayoutsQuery, {404: "there is no such payout"}),
    _endpoint("summary", report_summary, SummaryQuery, NO_TICKET),
    _endpoint("tickets", report_tickets, TicketsReportQuery, {}),
    _endpoint("donors", report_donors, DonorsQuery, NO_TICKET),
]

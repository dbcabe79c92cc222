"""How an endpoint of the operator API is declared (SPEC 10).

One `Endpoint` is all that there is to write: the checks of its parameters, the check of the token and its scope, the
audit log, the limits, the errors and its part of the OpenAPI document are made from it (`operator.py`, `openapi.py`).
A feature is a module with a list ENDPOINTS, and one line in `operator.FEATURES`:

    class TotalsQuery(Struct, forbid_unknown_fields=True, kw_only=True):
        ticket: TicketId                        # without a default: required
        currency: Currency | UnsetType = UNSET  # not required; UNSET is false
        limit: Limit = 100

    class Total(Struct, rename="camel"):
        currency: str
        amount: Amount

    async def list_totals(deps: Dependencies, call: Call, query: TotalsQuery) -> list[Total]:
        '''The totals of a ticket.'''
        rows = await deps.database.fetch(load("list_totals"), {"ticket": query.ticket})
        if not rows:
            raise web.HTTPNotFound(text=f"there is no ticket {query.ticket}")
        return [Total(…) for row in rows]

    ENDPOINTS = [
        Endpoint("GET", "tickets/{ticket}/totals", Scope.READ, list_totals, TotalsQuery, {JSON: list[Total]},
                 errors={404: "there is no such ticket"})
    ]

A field of the parameters whose name is in the path comes from the path; the others come from the query of a GET, and
from the JSON body of a POST or PUT. Types with a pattern and a description are in `parameters.py`; the description
becomes the error's text, so a reply never repeats what a client sent.

A reply in parts is a `Stream`: its first part is awaited before the head of the reply is sent, so what fails until then
is an error like any other; what fails later ends the connection, so that the client sees that the reply is not
complete. The generator of the parts is closed at the end, also when the client leaves or reads too slowly:

    async def export_rows(deps: Dependencies, call: Call, query: Query) -> Stream:
        async def parts() -> AsyncGenerator[bytes, None]:
            async for rows in …:
                yield encode(rows)  # some ten kilobytes at a time
        return Stream(parts(), {"Content-Disposition": 'attachment; filename="donations.csv"'})

    Endpoint("GET", "export.csv", Scope.EXPORT, export_rows, Query, {CSV: str},
             audit=lambda query: AuditEntry("export", f"csv {query.kind}"), is_slow=True)

An endpoint with several types in `replies` is answered in the one that the client's Accept header prefers:
`call.media_type`. A handler returns a value of that type, to be encoded as JSON; text; bytes; or a Stream.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from daemon.api.event_replay import EventReplay
from daemon.ledger.operators import Operators
from daemon.reports.fraud_thresholds import Thresholds
from daemon.runtime.http.auth import Scope
from sql.database import Database

PREFIX = "/api/operator/"
LEDGER_SEQ = "X-Ledger-Seq"  # the journal's last entry in the snapshot that the reply was read from
JSON, CSV, PLAIN_TEXT = "application/json", "text/csv", "text/plain"


@dataclass(frozen=True)
class Dependencies:
    """What the operator's endpoints work with.

    Args:
        database: the primary server, by connections that only operators use: an operator sees what was just done.
        operators: what changes donations and events.
        default_currency: of tickets that name none.
        report_time_zone: where a report's days begin, unless the call names another time zone.
        fraud_thresholds: from which numbers on something is a signal of fraud.
        dispute_fee: what Stripe charges for a dispute, for people; None if that is not configured.
        event_replay: None without STRIPE_API_KEY.
    """

    database: Database
    operators: Operators
    default_currency: str
    report_time_zone: str = "UTC"
    fraud_thresholds: Thresholds = field(default_factory=Thresholds)
    dispute_fee: str | None = None
    event_replay: EventReplay | None = None


class Call(NamedTuple):
    """Who asks, by the token's name, and the media type of the reply, one of the endpoint's."""

    operator: str
    media_type: str


class AuditEntry(NamedTuple):
    """A row for the audit log: what was done, and with what; never a hash, and nothing about a donor."""

    action: str
    detail: str = ""


@dataclass(frozen=True)
class Stream:
    """A reply that is sent in parts, with headers of its own."""

    parts: AsyncGenerator[bytes, None]
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Created:
    """A reply of status 201: a PUT has made what was not there before."""

    reply: object


def _nothing_to_audit(_parameters: Any) -> None:
    """Reading is not on record."""


@dataclass(frozen=True)
class Endpoint:
    """One endpoint. `handler`'s name becomes the operation's id, and its docstring the description.

    Args:
        method: GET, POST or PUT.
        path: below PREFIX; each `{name}` is a field of the parameters.
        scope: what the token must permit.
        handler: answers a call; it raises aiohttp's HTTP errors, with a text that says what to do. Its arguments are
            the dependencies, the call and its parameters.
        parameters: a Struct.
        replies: media type -> type of the reply; the first is what a client gets that does not choose.
        errors: the statuses of the errors that the handler raises, with their reasons.
        audit: the row that a call leaves in the audit log before the handler runs. An endpoint of scope ACT has none:
            the statement that changes something writes it, so that there is never one without the other.
        is_slow: whether it takes one of the places of exports, which may be worked on for minutes.
        has_ledger_seq: whether its replies have the header LEDGER_SEQ.
    """

    method: Literal["GET", "POST", "PUT"]
    path: str
    scope: Scope
    handler: Callable[[Dependencies, Call, Any], Awaitable[Any]]
    parameters: type[Any]
    replies: Mapping[str, Any]
    errors: Mapping[int, str] = field(default_factory=dict)
    audit: Callable[[Any], AuditEntry | None] = _nothing_to_audit
    is_slow: bool = False
    has_ledger_seq: bool = False

    def __post_init__(self) -> None:
        if self.scope is Scope.EXPORT and self.audit is _nothing_to_audit:
            raise TypeError(f"{self.path}: each export is on record, so `audit` is needed")

    @property
    def name(self) -> str:
        """The operation's id."""
        return self.handler.__name__

    @property
    def description(self) -> str:
        """What it does, for the document."""
        return " ".join((self.handler.__doc__ or "").split())

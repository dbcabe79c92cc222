"""`GET export.csv` and `export.jsonl`, and the manifests of what was sent (SPEC 10 and 11)."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import Annotated, Any, Literal
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

import msgspec
from aiohttp import hdrs, web
from msgspec import UNSET, Meta, Struct, UnsetType, field

from daemon.api.endpoints import CSV, JSON, LEDGER_SEQ, AuditEntry, Call, Dependencies, Endpoint, Stream
from daemon.api.parameters import Currency, TicketId, Time
from daemon.ledger.donation import Status
from daemon.ledger.reader import Moment
from daemon.reports.entry_sums import MomentInFuture
from daemon.reports.export import (
    Export,
    Kind,
    Manifest,
    MomentRow,
    Selection,
    audit_detail,
    decode_manifest,
    find_last,
    first_second,
    parse_key,
    table_format,
)
from daemon.reports.tickets import UnknownTicket, check_ticket
from daemon.reports.time_zones import UnknownTimeZone, load_time_zone
from daemon.runtime.http.auth import Scope
from sql import load
from sql.database import Database

JSON_LINES = "application/x-ndjson"
FETCH_ROWS = 200  # some 60 kB; they delay what else the process does by two milliseconds
FETCH_S = 60.0  # the first fetch may have to sort all rows
DEFAULT_ZONE = "UTC"
NO_TICKET = "there is no such ticket"
NO_MANIFEST = "no export with these parameters was sent completely in the last 30 days"

Key = Annotated[
    str,
    Meta(
        pattern="^[A-Za-z0-9_]{1,255}$",
        description="the row after which to continue, `last` in a manifest: a donation's id, or an entry's number",
    ),
]
EntryNumber = Annotated[int, Meta(ge=0, lt=10**18, description="an entry's number")]
Zone = Annotated[str, Meta(max_length=64, description="a time zone such as Europe/Berlin")]


class RowsQuery(Struct, forbid_unknown_fields=True):
    """Which rows are exported. `from` and `to` (which is not part of the period) count by the time of the payment, for
    donations that were never paid by the time of creation, for entries by the time when the money moved."""

    kind: Kind = Kind.DONATIONS
    ticket: TicketId | UnsetType = UNSET
    status: Status | UnsetType = UNSET
    currency: Currency | UnsetType = UNSET
    from_: Time | UnsetType = field(default=UNSET, name="from")
    to: Time | UnsetType = UNSET
    unpaid: bool = False
    after: Key | UnsetType = UNSET
    as_of: EntryNumber | UnsetType = field(default=UNSET, name="asOf")

    @property
    def selection(self) -> Selection:
        """The rows. Raises HTTPBadRequest where two parameters do not fit each other."""
        if self.kind is Kind.ENTRIES and (self.status is not UNSET or self.unpaid):
            raise web.HTTPBadRequest(text="status and unpaid are of donations: leave them out with kind=entries")
        if self.kind is Kind.DONATIONS and self.as_of is not UNSET:
            raise web.HTTPBadRequest(text="asOf is of entries: donations are exported as they are now")
        from_s, to_s = (first_second(time) if time else None for time in (self.from_, self.to))
        if from_s is not None and to_s is not None and from_s >= to_s:
            raise web.HTTPBadRequest(text="from must be before to, which is the first moment after the period")
        try:
            after = parse_key(self.kind, self.after) if self.after else None
        except ValueError as expected:
            raise web.HTTPBadRequest(text=f"after: {expected}, `last` in a manifest") from None
        return Selection(
            self.kind,
            self.ticket or None,
            self.status or None,
            self.currency or None,
            from_s,
            to_s,
            self.unpaid,
            after,
            None if self.as_of is UNSET else Moment(self.as_of, None),
        )

    def arguments(self, **changed: str) -> dict[str, str]:
        """What was asked for, as the parameters of a query, without what is as it is by default."""
        values = {**msgspec.to_builtins(self), **changed}
        defaults = msgspec.to_builtins(type(self)())
        texts = {name: "true" if value is True else str(value) for name, value in sorted(values.items())}
        return {name: text for name, text in texts.items() if values[name] != defaults.get(name)}


class CsvQuery(RowsQuery, forbid_unknown_fields=True):
    """Which rows are exported, and how the file is written. `tz` is the time zone of the profiles for Excel."""

    profile: Literal["standard", "excel", "excel-de"] = "standard"
    tz: Zone = DEFAULT_ZONE
    no_header: bool = field(default=False, name="noHeader")


class JsonLinesQuery(RowsQuery, forbid_unknown_fields=True):
    """Which rows are exported."""


async def export_csv(deps: Dependencies, call: Call, query: CsvQuery) -> Stream:
    """A CSV file (RFC 4180) of donations or entries, in constant memory. `X-Ledger-Seq` names the journal's last
    entry in it. Text that a spreadsheet would take for a formula begins with an apostrophe."""
    return await _begin(deps.database, call.operator, "csv", query)


async def export_jsonl(deps: Dependencies, call: Call, query: JsonLinesQuery) -> Stream:
    """Donations or entries as one JSON object per line, in constant memory. `X-Ledger-Seq` names the journal's last
    entry in it."""
    return await _begin(deps.database, call.operator, "jsonl", query)


async def show_csv_manifest(deps: Dependencies, call: Call, query: CsvQuery) -> Manifest:
    """What the newest complete reply to `export.csv` with the same parameters contained: compare a download with
    it."""
    return await _find_manifest(deps.database, call.operator, "csv", query)


async def show_jsonl_manifest(deps: Dependencies, call: Call, query: JsonLinesQuery) -> Manifest:
    """What the newest complete reply to `export.jsonl` with the same parameters contained."""
    return await _find_manifest(deps.database, call.operator, "jsonl", query)


def _export(handler: Any, name: str, query: type[RowsQuery], media_type: str) -> Endpoint:
    return Endpoint(
        "GET",
        f"export.{name}",
        Scope.EXPORT,
        handler,
        query,
        {media_type: str},
        {404: NO_TICKET},
        audit=lambda asked: AuditEntry("export", audit_detail(asked.selection, name)),
        is_slow=True,
        has_ledger_seq=True,
    )


def _manifest(handler: Any, name: str, query: type[RowsQuery]) -> Endpoint:
    return Endpoint(
        "GET",
        f"export.{name}/manifest",
        Scope.EXPORT,
        handler,
        query,
        {JSON: Manifest},
        {404: NO_MANIFEST},
        audit=lambda _asked: None,
    )


async def _begin(database: Database, operator: str, format_name: str, query: RowsQuery) -> Stream:
    """A reply whose parts are read from one snapshot, which they close. When all were sent, the manifest is stored."""
    selection, csv = query.selection, query if isinstance(query, CsvQuery) else None
    last = await _find_last(database, selection)
    format_ = table_format(selection.kind, csv.profile if csv else None, _zone(csv.tz if csv else DEFAULT_ZONE))
    async with AsyncExitStack() as opening:
        snapshot = await opening.enter_async_context(database.snapshot(FETCH_S))
        moment = MomentRow._make((await snapshot.rows(load("export_moment"), last))[0])
        opened = opening.pop_all()
    export = Export(format_, moment, selection, with_head=not (csv and csv.no_header))

    async def parts() -> AsyncGenerator[bytes, None]:
        statement = load(selection.query), selection.params(moment.seq)
        async with opened, aclosing(snapshot.batches(*statement, size=FETCH_ROWS)) as batches:
            begun = export.head()
            async for rows in batches:
                yield begun + export.batch(rows)
                begun = b""
            if begun:
                yield begun
        manifest = _manifest_of(export, format_name, query).json().decode()
        await database.fetch(
            load("store_manifest"), {**_manifest_key(operator, format_name, query), "manifest": manifest}
        )

    name = f'attachment; filename="{selection.kind}.{format_name}"'
    return Stream(parts(), {LEDGER_SEQ: str(moment.seq), hdrs.CONTENT_DISPOSITION: name})


async def _find_last(database: Database, selection: Selection) -> dict[str, int | None]:
    """Up to where the journal is exported. Raises the HTTP error of a selection that cannot be exported."""
    try:
        await check_ticket(database, selection.ticket)
        return await find_last(database, selection)
    except UnknownTicket as problem:
        raise web.HTTPNotFound(text=str(problem)) from None
    except MomentInFuture as problem:
        raise web.HTTPBadRequest(text=f"asOf: {problem}") from None


def _manifest_of(export: Export, format_name: str, query: RowsQuery) -> Manifest:
    """The manifest of an export of which all was sent."""
    csv = query if isinstance(query, CsvQuery) else None
    last = export.last or query.selection.after
    following = None if last is None else f"export.{format_name}?{urlencode(query.arguments(after=str(last)))}"
    return export.manifest(
        format_name,
        profile=csv.profile if csv else None,
        zone=_zone(csv.tz) if csv else None,
        continue_with=following,
    )


async def _find_manifest(database: Database, operator: str, format_name: str, query: RowsQuery) -> Manifest:
    rows = await database.fetch(load("find_manifest"), _manifest_key(operator, format_name, query))
    if not rows:
        raise web.HTTPNotFound(text=NO_MANIFEST)
    return decode_manifest(rows[0][0])


def _manifest_key(operator: str, format_name: str, query: RowsQuery) -> dict[str, str]:
    return {"operator": operator, "arguments": f"export.{format_name}?{urlencode(query.arguments())}"}


def _zone(name: str) -> ZoneInfo:
    try:
        return load_time_zone(name)
    except UnknownTimeZone as problem:
        raise web.HTTPBadRequest(text=f"tz: {problem}") from None


ENDPOINTS = [
    _export(export_csv, "csv", CsvQuery, CSV),
    _export(export_jsonl, "jsonl", JsonLinesQuery, JSON_LINES),
    _manifest(show_csv_manifest, "csv", CsvQuery),
    _manifest(show_jsonl_manifest, "jsonl", JsonLinesQuery),
]

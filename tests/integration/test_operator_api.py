"""What every endpoint of the operator API has in common: tokens, checks, problem documents, streams, places."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientPayloadError, ClientResponse, web
from msgspec import UNSET, Struct, UnsetType

from daemon.api import operator
from daemon.api.endpoints import CSV, JSON, PREFIX, AuditEntry, Call, Dependencies, Endpoint, Stream
from daemon.api.openapi import document
from daemon.api.operator import FEATURES
from daemon.api.parameters import Currency, Limit, TicketId, Time
from daemon.ledger.donation import Status
from daemon.runtime.http.auth import Scope
from sql import load
from sql.database import Database
from tests.support.api_application import Client, MakeClient, application, follower
from tests.support.operators import ACTOR, EXPORTER, READER, TOKENS, WRONG, bearer
from tests.support.process import WAIT_S

PROBLEM = "application/problem+json"
PART = b"x" * 65_536


class Query(Struct, forbid_unknown_fields=True):
    id: TicketId
    status: Status | UnsetType = UNSET
    currency: Currency | UnsetType = UNSET
    limit: Limit = 100
    since: Time | UnsetType = UNSET
    all: bool = False


class Change(Struct, forbid_unknown_fields=True):
    id: TicketId
    ticket: TicketId
    note: str = ""


class Parts:
    """What streams send: `count` parts, then perhaps an error; and whether the generator was closed."""

    def __init__(self) -> None:
        self.count = 3
        self.error: Exception | None = None
        self.sent = 0
        self.closed = asyncio.Event()

    async def __call__(self) -> AsyncGenerator[bytes, None]:
        try:
            while self.sent < self.count:
                self.sent += 1
                yield PART
            if self.error:
                raise self.error
        finally:
            self.closed.set()


class Calls:
    """The calls that reached the handlers of the endpoints below."""

    def __init__(self) -> None:
        self.made = list[tuple[Call, Any]]()
        self.parts = Parts()
        self.wait = asyncio.Event()
        self.wait.set()

        shown, text = {JSON: dict[str, str]}, {CSV: str}
        self.ENDPOINTS = [
            Endpoint("GET", "things/{id}", Scope.READ, self.show_thing, Query, shown),
            Endpoint("POST", "things/{id}/change", Scope.ACT, self.change_thing, Change, shown),
            Endpoint("GET", "things/{id}/all.csv", Scope.EXPORT, self.export_things, Query, text, is_slow=True,
                     audit=lambda query: AuditEntry("export", f"things {query.id}")),
            Endpoint("GET", "things/{id}/report", Scope.READ, self.report_things, Query, shown | text),
        ]  # fmt: skip

    async def show_thing(self, _deps: Dependencies, call: Call, query: Query) -> dict[str, Any]:
        """Shows a thing."""
        self.made.append((call, query))
        await self.wait.wait()
        return {"id": query.id}

    async def change_thing(self, _deps: Dependencies, call: Call, change: Change) -> dict[str, Any]:
        """Changes a thing."""
        self.made.append((call, change))
        return {"id": change.id}

    async def export_things(self, _deps: Dependencies, call: Call, query: Query) -> Stream:
        """Exports things."""
        self.made.append((call, query))
        return Stream(self.parts(), {"X-Rows": "3"})

    async def report_things(self, _deps: Dependencies, call: Call, query: Query) -> Any:
        """Reports on things."""
        self.made.append((call, query))
        return {"id": query.id} if call.media_type == JSON else f"id\r\n{query.id}\r\n"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls = Calls()
    monkeypatch.setattr(operator, "FEATURES", (*FEATURES, calls))
    return calls


@pytest.fixture(scope="module")
def database_url(shared_url: str) -> str:
    """All tests have the same database, which they leave as it is."""
    return shared_url


@pytest.fixture
async def client(calls: Calls, database: Database, aiohttp_client: MakeClient) -> Client:
    return await aiohttp_client(application(database, follower(), tokens=TOKENS))


SHOW, CHANGE, EXPORT, REPORT = (PREFIX + path for path in
                                ("things/a", "things/a/change", "things/a/all.csv", "things/a/report"))  # fmt: skip


async def is_problem(reply: ClientResponse, status: int, words: str) -> None:
    """The reply is a problem document of RFC 9457 with these words, and no cache keeps it."""
    assert reply.status == status, await reply.text()
    assert reply.content_type == PROBLEM
    assert reply.headers["Cache-Control"] == "no-store"
    body = await reply.json(content_type=PROBLEM)
    assert (body["type"], body["title"], body["status"]) == ("about:blank", reply.reason, status)
    assert words in body["detail"]


# --- Who may call


@pytest.mark.parametrize(
    ("method", "path", "right", "wrong", "scope"),
    [("GET", SHOW, READER, EXPORTER, "read"), ("POST", CHANGE, ACTOR, READER, "act"),
     ("GET", EXPORT, EXPORTER, ACTOR, "export")],
)  # fmt: skip
async def test_each_endpoint_needs_a_token_with_its_scope(
    client: Client, calls: Calls, *, method: str, path: str, right: str, wrong: str, scope: str
) -> None:
    """401 without a token and with a wrong one, 403 with the scope that is missing, before anything else is read."""
    for headers in ({}, bearer(WRONG)):
        reply = await client.request(method, path, params={"no": "such"}, headers=headers, data=b"no JSON")
        await is_problem(reply, 401, "token")
        assert reply.headers["WWW-Authenticate"].startswith('Bearer realm="donationd"')
    reply = await client.request(method, path, params={"no": "such"}, headers=bearer(wrong))
    await is_problem(reply, 403, scope)
    assert reply.headers["WWW-Authenticate"].endswith(f'error="insufficient_scope", scope="{scope}"')
    assert calls.made == []
    reply = await client.request(method, path, headers=bearer(right), json={"ticket": "b"} if scope == "act" else None)
    assert reply.status == 200
    assert reply.headers["Cache-Control"] == "no-store"
    [(call, _)] = calls.made
    assert call.operator == {READER: "rita", ACTOR: "anna", EXPORTER: "books"}[right]


async def test_what_is_not_there_and_what_is_not_allowed_are_problems(client: Client) -> None:
    """An unknown address, and a method that an address does not have; a HEAD of an export is none."""
    await is_problem(await client.get(f"{PREFIX}no/such"), 404, "nothing")
    for path in (SHOW, EXPORT):
        reply = await client.delete(path, headers=bearer(READER))
        await is_problem(reply, 405, "not allowed")
        assert reply.headers["Allow"] == "GET"
        assert (await client.head(path, headers=bearer(EXPORTER))).status == 405


async def test_while_the_database_cannot_be_used_it_is_a_problem_too(
    database: Database, aiohttp_client: MakeClient
) -> None:
    """503 with Retry-After, as a problem document."""
    client = await aiohttp_client(application(database, follower(ready=False), tokens=TOKENS))
    reply = await client.get(f"{PREFIX}actions", headers=bearer(READER))
    await is_problem(reply, 503, "unavailable")
    assert reply.headers["Retry-After"] == "30"


# --- Parameters


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (f"{SHOW}?status=paid", "status: one of CREATED, DISPUTED"),
        (f"{SHOW}?status=null", "status: one of CREATED, DISPUTED"),
        (f"{SHOW}?currency=usd", "currency: three capital letters"),
        (f"{SHOW}?currency=", "currency: three capital letters"),
        *((f"{SHOW}?limit={limit}", "limit: a whole number from 1 to 1000")
          for limit in ("0", "1001", "-1", "1.0", "1e2", "%2B1", "9" * 30, "", "null", "%D9%A1")),
        *((f"{SHOW}?since={time}", "since: a time such as")
          for time in ("2026-01-31", "2026-01-31T00:00:00", "1767225600", "now")),
        *((f"{SHOW}?since={time}", "a time is before the year 1")
          for time in ("0001-01-01T00:00:00%2B01:00", "9999-12-31T23:59:59-01:00")),
        (f"{SHOW}?all=1", "all: "),
        (f"{SHOW}?limit=1&limit=2", "limit: given more than once"),
        (f"{SHOW}?donor=x", "unknown parameter (there are: all, currency, limit, since, status)"),
        (f"{SHOW}?id=b", "unknown parameter"),
        (f"{SHOW}?currency=USD%0A", "currency: control characters"),
        (f"{SHOW}?currency=%00", "currency: control characters"),
        (f"{PREFIX}things/a%0A", "id: control characters"),
        (f"{PREFIX}things/%C3%A9", "id: a ticket id has"),
        (f"{PREFIX}things/123456789", "id: a ticket id has"),
        (f"{PREFIX}things/{'a' * 65}", "id: a ticket id has"),
    ],
)  # fmt: skip
async def test_a_wrong_parameter_is_named(client: Client, calls: Calls, path: str, words: str) -> None:
    """400 says which parameter it is and what it must be; the handler is not called."""
    await is_problem(await client.get(path, headers=bearer(READER)), 400, words)
    assert calls.made == []


async def test_parameters_arrive_as_their_types(client: Client, calls: Calls) -> None:
    """Numbers, flags, times and names of statuses are what the Struct declares."""
    query = {"status": "PAID", "limit": "7", "all": "true", "since": "2026-01-31T01:00:00+01:00"}
    assert (await client.get(SHOW, params=query, headers=bearer(READER))).status == 200
    [(_, got)] = calls.made
    assert (got.id, got.status, got.limit, got.all) == ("a", Status.PAID, 7, True)
    assert got.since.isoformat() == "2026-01-31T00:00:00+00:00"
    assert got.currency is UNSET


@pytest.mark.parametrize(
    ("body", "content_type", "status", "words"),
    [
        (b"", JSON, 400, "not a JSON object"),
        (b"{", JSON, 400, "not a JSON object"),
        (b"[1]", JSON, 400, "not a JSON object"),
        (b"[" * 9000, JSON, 400, "not a JSON object"),
        (b'{"note": 1e99999999999999999999}', JSON, 400, "not a JSON object"),
        (b'{"note": ' + b"9" * 9000 + b"}", JSON, 400, "not a JSON object"),
        (b'{"ticket": "\xff"}', JSON, 400, "not a JSON object"),
        (b'{"ticket": "\\ud800"}', JSON, 400, "not a JSON object"),
        (b"{}", JSON, 400, "ticket: it is missing (a ticket id has"),
        (b'{"ticket": 5}', JSON, 400, "ticket: a ticket id has"),
        (b'{"ticket": null}', JSON, 400, "ticket: a ticket id has"),
        (b'{"ticket": "b\\n"}', JSON, 400, "ticket: control characters"),
        (b'{"ticket": "b", "more": 1}', JSON, 400, "unknown parameter (there are: note, ticket)"),
        (b'{"ticket": "b", "id": "c"}', JSON, 400, "unknown parameter"),
        (b'{"ticket": "b"}', "text/plain", 415, "Content-Type: application/json"),
        (b'{"ticket": "b"}', "application/x-www-form-urlencoded", 415, "Content-Type: application/json"),
        (b'{"ticket": "b", "note": "' + b"x" * 20_000 + b'"}', JSON, 413, ""),
    ],
)
async def test_a_wrong_body_is_explained(
    client: Client, calls: Calls, *, body: bytes, content_type: str, status: int, words: str
) -> None:
    """What is no JSON, no object, too large, incomplete or not known; the handler is not called."""
    headers = bearer(ACTOR, **{"Content-Type": content_type})
    await is_problem(await client.post(CHANGE, data=body, headers=headers), status, words)
    assert calls.made == []


async def test_a_query_of_a_change_is_rejected(client: Client, calls: Calls) -> None:
    """The parameters of a POST are in its body only."""
    reply = await client.post(f"{CHANGE}?ticket=b", json={"ticket": "b"}, headers=bearer(ACTOR))
    await is_problem(reply, 400, "unknown parameter")
    assert calls.made == []


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (None, JSON),
        ("*/*", JSON),
        ("text/csv", CSV),
        ("TEXT/CSV; charset=utf-8", CSV),
        ("text/*", CSV),
        ("application/json;q=0.5, text/csv", CSV),
        ("text/csv;q=0.5, application/*", JSON),
        ("text/html, application/xhtml+xml, */*;q=0.1", JSON),
        ("text/csv;q=0, */*", JSON),
        ("text/csv;q=nan", None),
        ("text/csv;q=x", None),
        ("text/html", None),
        ("*/*;q=0", None),
        (",;=,;q", None),
    ],
)
async def test_the_client_chooses_the_media_type(client: Client, accept: str | None, media_type: str | None) -> None:
    """By Accept, as RFC 9110 describes it; 406 names what there is."""
    headers = bearer(READER) | ({} if accept is None else {"Accept": accept})
    reply = await client.get(REPORT, headers=headers, skip_auto_headers=["Accept"])
    if media_type:
        assert (reply.status, reply.content_type) == (200, media_type)
        assert reply.headers["Vary"] == "Accept"
    else:
        await is_problem(reply, 406, f"{JSON}, {CSV}")


# --- Streams


async def test_a_stream_is_sent_in_parts(client: Client, calls: Calls) -> None:
    """All parts arrive, with the stream's headers; its generator is closed."""
    reply = await client.get(EXPORT, headers=bearer(EXPORTER))
    assert (reply.status, reply.content_type, reply.charset) == (200, CSV, "utf-8")
    assert (reply.headers["Cache-Control"], reply.headers["X-Rows"]) == ("no-store", "3")
    assert await reply.read() == PART * 3
    await calls.parts.closed.wait()


async def test_an_error_before_the_first_part_is_a_problem(client: Client, calls: Calls) -> None:
    """Nothing was sent yet, so the client gets the error's status."""
    calls.parts.count, calls.parts.error = 0, web.HTTPNotFound(text="there is no such thing")
    await is_problem(await client.get(EXPORT, headers=bearer(EXPORTER)), 404, "no such thing")
    assert calls.parts.closed.is_set()


async def test_an_error_after_it_ends_the_connection(client: Client, calls: Calls) -> None:
    """The client sees that the reply is not complete."""
    calls.parts.error = RuntimeError("the database is gone")
    reply = await client.get(EXPORT, headers=bearer(EXPORTER))
    with pytest.raises(ClientPayloadError):
        await reply.read()
    await asyncio.wait_for(calls.parts.closed.wait(), WAIT_S)


async def test_a_client_that_leaves_ends_its_stream(client: Client, calls: Calls) -> None:
    """The generator is closed, and its place is free again."""
    calls.parts.count = 10**9
    for _ in range(5):  # more than there are places
        calls.parts.closed.clear()
        reply = await client.get(EXPORT, headers=bearer(EXPORTER))
        await reply.content.readexactly(len(PART))
        reply.close()
        await asyncio.wait_for(calls.parts.closed.wait(), WAIT_S)


async def test_an_export_is_on_record_before_its_first_part(client: Client, calls: Calls, database: Database) -> None:
    """With the token's name, also if the client leaves; a call that is rejected is not."""
    before = await recorded(database)
    await client.get(f"{EXPORT}?limit=0", headers=bearer(EXPORTER))
    await client.get(EXPORT, headers=bearer(READER))
    calls.parts.count = 10**9
    reply = await client.get(EXPORT, headers=bearer(EXPORTER))
    assert await recorded(database) == [("books", "export", "things a"), *before]
    reply.close()


async def recorded(database: Database) -> list[tuple[object, ...]]:
    """Name, action and detail of what is on record."""
    rows = await database.fetch(load("list_operator_actions"), {"limit": 1000, "before": None})
    return [(row[2], row[3], row[7]) for row in rows]


# --- Places


@asynccontextmanager
async def busy(client: Client, calls: Calls, count: int) -> AsyncIterator[None]:
    """So many calls are being worked on."""
    calls.wait.clear()
    tasks = [asyncio.create_task(client.get(SHOW, headers=bearer(READER))) for _ in range(count)]
    while len(calls.made) < count:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    yield
    calls.wait.set()
    assert {(await task).status for task in tasks} == {200}


async def test_there_are_places_for_calls_and_for_exports(client: Client, calls: Calls) -> None:
    """When all places for calls are taken, a further call gets 503 after a second; an export has its own places."""
    async with busy(client, calls, 2):
        reply = await client.get(SHOW, headers=bearer(READER))
        await is_problem(reply, 503, "more requests of this kind")
        assert (await client.get(EXPORT, headers=bearer(EXPORTER))).status == 200
    assert len(calls.made) == 3


# --- The document


async def test_the_document_is_public_and_lists_every_endpoint(client: Client, calls: Calls) -> None:
    """Without a token; each declared endpoint is in it, with its scope, and with the problem of each error."""
    reply = await client.get("/api/openapi.json")
    assert (reply.status, reply.content_type) == (200, JSON)
    shown = await reply.json()
    assert shown["openapi"] == "3.1.0"
    operation = shown["paths"][f"{PREFIX}things/{{id}}"]["get"]
    assert operation["security"] == [{"operatorToken": ["read"]}]
    assert {each["name"]: each["in"] for each in operation["parameters"]} == {
        "id": "path", **dict.fromkeys(("status", "currency", "limit", "since", "all"), "query")
    }  # fmt: skip
    assert operation["responses"]["401"]["content"].keys() == {PROBLEM}
    body = shown["paths"][f"{PREFIX}things/{{id}}/change"]["post"]["requestBody"]["content"][JSON]["schema"]
    assert (body["properties"].keys(), body["required"]) == ({"ticket", "note"}, ["ticket"])


def test_an_export_without_a_record_cannot_be_declared() -> None:
    """Each export is on record (SPEC 10), so an endpoint of scope export needs `audit`."""

    async def export(_deps: Dependencies, _call: Call, _query: Query) -> str:
        return ""

    with pytest.raises(TypeError, match="audit"):
        Endpoint("GET", "x", Scope.EXPORT, export, Query, {CSV: str})


def test_no_two_endpoints_have_the_same_name() -> None:
    """An operation's id is unique, and each endpoint has a description."""
    endpoints = [each for feature in FEATURES for each in feature.ENDPOINTS]
    assert len({each.name for each in endpoints}) == len(endpoints)
    assert all(each.description for each in endpoints)
    assert document(endpoints, "1")["info"]["version"] == "1"

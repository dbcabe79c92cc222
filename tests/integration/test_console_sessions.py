"""The sessions of the operator console, forms of other sites, and what each scope permits (SPEC 13)."""

from hashlib import sha256
from http import HTTPStatus
from urllib.parse import quote

import pytest
from aiohttp import hdrs
from yarl import URL

from daemon.ledger.audit import actions
from daemon.ledger.tickets import tickets
from daemon.pages.console_pages import ACTIONS, PAGES
from daemon.runtime.http.auth import MAX_FAILED_ATTEMPTS
from daemon.runtime.http.sessions import COOKIE
from sql.database import Database
from tests.support.api_application import Client, MakeClient, application, follower
from tests.support.console import FIELDS, ONE_FORM, Visitor, record_payments
from tests.support.operators import ACTOR, EXPORTER, READER, TOKENS, WRONG


@pytest.fixture
async def client(database: Database, aiohttp_client: MakeClient) -> Client:
    return await aiohttp_client(application(database, follower(), tokens=TOKENS))


@pytest.fixture
async def anna(client: Client) -> Visitor:
    """An operator who may read and act."""
    return await Visitor(client).sign_in(ACTOR)


# --- Sessions


async def test_a_session_begins_with_a_token_and_its_cookie_is_for_this_host_only(client: Client) -> None:
    reply = await Visitor(client).post("/operator/sign-in", {"token": READER, "next": "/operator/audit?limit=5"})
    assert reply.status == HTTPStatus.SEE_OTHER
    cookie = reply.cookies[COOKIE]
    assert COOKIE.startswith("__Host-")
    assert (cookie["path"], cookie["domain"], cookie["samesite"], cookie["max-age"]) == ("/", "", "Strict", "43200")
    assert cookie["secure"] and cookie["httponly"]
    kept = Visitor(client, cookie.value)
    check = await kept.get(reply.headers[hdrs.LOCATION])
    assert check.headers[hdrs.LOCATION] == "/operator/audit?limit=5"
    lost = await Visitor(client).get(reply.headers[hdrs.LOCATION])
    assert "did not keep the cookie" in await lost.text()


async def test_a_wrong_token_is_rejected_with_the_limits_of_the_operator_api(client: Client) -> None:
    visitor = Visitor(client)
    for _ in range(MAX_FAILED_ATTEMPTS):
        reply = await visitor.post("/operator/sign-in", {"token": WRONG})
        assert reply.status == HTTPStatus.UNAUTHORIZED and hdrs.WWW_AUTHENTICATE in reply.headers
        assert "not valid" in await reply.text() and WRONG not in await reply.text()
    reply = await visitor.post("/operator/sign-in", {"token": ACTOR})
    assert reply.status == HTTPStatus.TOO_MANY_REQUESTS and hdrs.RETRY_AFTER in reply.headers
    reply = await client.get("/api/operator/tickets", headers={"Authorization": f"Bearer {ACTOR}"})
    assert reply.status == HTTPStatus.TOO_MANY_REQUESTS, "both count the same attempts"


async def test_without_a_session_every_page_leads_to_the_sign_in_and_back(client: Client) -> None:
    paths = [f"/operator{page.path.replace('{id}', 'pi_1')}?a=b&c=d" for page in PAGES]
    for path in [*paths, "/operator/export.csv?kind=entries", "/operator/reports/income.csv?period=2026"]:
        reply = await Visitor(client, "1.x.y").get(path)
        assert reply.status == HTTPStatus.SEE_OTHER
        sign_in = URL(reply.headers[hdrs.LOCATION])
        assert (sign_in.path, dict(sign_in.query)) == ("/operator/sign-in", {"next": path})
    for action in ACTIONS:
        reply = await Visitor(client).post("/operator" + action.path.replace("{id}", "pi_1"))
        assert reply.headers[hdrs.LOCATION] == "/operator/sign-in?next=/operator"


@pytest.mark.parametrize(
    "path",
    [
        "https://example.org/",
        "//example.org",
        "/operator@example.org",
        "/operator/\\x",
        "/a",
        "/operator/..//example.org",
    ],
)
async def test_the_sign_in_leads_to_pages_of_the_console_only(client: Client, path: str) -> None:
    reply = await Visitor(client).post("/operator/sign-in", {"token": READER, "next": path})
    assert reply.headers[hdrs.LOCATION] == "/operator/sign-in/check?next=%2Foperator"
    assert "example.org" not in await (await Visitor(client).get(f"/operator/sign-in?next={quote(path)}")).text()


async def test_without_any_token_the_sign_in_says_how_to_make_one(
    database: Database, aiohttp_client: MakeClient
) -> None:
    client = await aiohttp_client(application(database, follower()))
    assert "donationd tokens new" in await (await client.get("/operator/sign-in")).text()


async def test_signing_out_ends_the_session_for_every_process(
    client: Client, anna: Visitor, database: Database, aiohttp_client: MakeClient
) -> None:
    """The cookie is deleted, and a copy of it admits to nothing: neither here nor in a process that starts later."""
    elsewhere = await Visitor(client).sign_in(ACTOR)
    reply = await anna.post("/operator/sign-out")
    assert (reply.status, reply.cookies[COOKIE].value, reply.cookies[COOKIE]["max-age"]) == (303, "", "0")
    later = Visitor(await aiohttp_client(application(database, follower(), tokens=TOKENS)), anna.cookie)
    for copy in (anna, later):
        replies = [await copy.get(f"/operator{path}") for path in ("", "/export.csv", "/chart.svg")]
        replies += [
            await copy.post(path, FIELDS, form_token=anna.form_token) for path in (ONE_FORM, "/operator/sign-out")
        ]
        assert [URL(each.headers[hdrs.LOCATION]).path for each in replies] == ["/operator/sign-in"] * len(replies)
        assert "Sign in" in await copy.page("/operator/sign-in")
    assert await tickets(database) == []
    assert "Overview" in await elsewhere.page("/operator"), "another session of the same token goes on"


async def test_of_an_ended_session_a_row_is_kept_until_its_cookie_has_expired(
    anna: Visitor, database: Database
) -> None:
    """And a day longer, for hosts whose clocks are late. The row contains nothing from which a cookie can be made."""
    await database.fetch(
        "INSERT INTO ended_sessions SELECT sha256(id::bytea), now() - since FROM (VALUES ('a', interval '25 hours'),"
        " ('b', interval '23 hours')) AS ended (id, since)"
    )
    await anna.post("/operator/sign-out")
    rows = await database.fetch(
        "SELECT id, extract(epoch FROM expires_at)::bigint FROM ended_sessions ORDER BY expires_at"
    )
    content, _, _mac = anna.cookie.rpartition(".")
    assert [bytes(id_) for id_, _ in rows] == [sha256(each).digest() for each in (b"b", content.encode())]
    assert str(rows[1][1]) == content.partition(".")[0]


async def test_a_session_of_a_token_that_was_removed_has_ended(
    anna: Visitor, database: Database, aiohttp_client: MakeClient
) -> None:
    others = tuple(token for token in TOKENS if token.name != "anna")
    later = Visitor(await aiohttp_client(application(database, follower(), tokens=others)), anna.cookie)
    assert (await later.get("/operator")).status == HTTPStatus.SEE_OTHER


# --- Forms


@pytest.mark.parametrize("action", [*(action.path for action in ACTIONS), "/sign-out"])
async def test_a_form_needs_the_token_of_its_own_session(client: Client, action: str) -> None:
    """Missing, wrong, of an earlier session of the same operator, of another operator, and stolen: taken from another
    session and sent with this one's cookie."""
    old, anna, other = [await Visitor(client).sign_in(token) for token in (ACTOR, ACTOR, READER)]
    path = "/operator" + action.replace("{id}", "pi_1")
    for form_token in ("", "x", old.form_token, other.form_token, anna.form_token[:-1], "é"):
        reply = await anna.post(path, FIELDS, form_token=form_token)
        assert (reply.status, reply.content_type) == (HTTPStatus.FORBIDDEN, "text/html")
        assert "open the page again" in await reply.text()
    reply = await other.post(path, FIELDS, form_token=anna.form_token)
    assert reply.status == HTTPStatus.FORBIDDEN, "a stolen token is of no use to another session"


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "https://example.org"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "", "Origin": "https://example.org"},
        {"Sec-Fetch-Site": "", "Origin": ""},
    ],
)
async def test_a_form_of_another_site_is_rejected_whatever_it_contains(anna: Visitor, headers: dict[str, str]) -> None:
    for path, fields in ((ONE_FORM, FIELDS), ("/operator/sign-in", {"token": ACTOR}), ("/operator/sign-out", {})):
        reply = await anna.post(path, fields, **headers)
        assert reply.status == HTTPStatus.FORBIDDEN
    for missing in ("Sec-Fetch-Site", "Origin"):
        assert (await anna.post(ONE_FORM, FIELDS, **{missing: ""})).status == HTTPStatus.SEE_OTHER


async def test_a_body_that_is_no_form_is_rejected(client: Client, anna: Visitor) -> None:
    headers = {"Cookie": f"{COOKIE}={anna.cookie}", "Sec-Fetch-Site": "same-origin"}
    for body, type_, status in (
        (b"{}", "application/json", HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
        (b"a=\xff\xfe&b", "application/x-www-form-urlencoded", HTTPStatus.BAD_REQUEST),
        (b"a=b&" * 50, "application/x-www-form-urlencoded", HTTPStatus.BAD_REQUEST),
        (b"a=" + b"b" * 20_000, "application/x-www-form-urlencoded", HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    ):
        reply = await client.post(ONE_FORM, data=body, headers={**headers, "Content-Type": type_})
        assert (reply.status, reply.content_type) == (status, "text/html")


# --- Scopes and errors


async def test_a_session_can_do_what_its_token_permits(client: Client, database: Database) -> None:
    rita, books = [await Visitor(client).sign_in(token) for token in (READER, ACTOR)]
    [id_, *_] = await record_payments(database, 3)
    page = await rita.page(f"/operator/donations/{id_}")
    assert "Assign" not in page and "/operator/exports" not in page
    for action in ACTIONS:
        reply = await rita.post("/operator" + action.path.replace("{id}", id_), FIELDS | {"ticket": "story-1"})
        assert reply.status == HTTPStatus.FORBIDDEN and "lacks the scope act" in await reply.text()
    for path in ("exports", "export.csv", "export.jsonl/manifest"):
        reply = await books.get(f"/operator/{path}")
        assert reply.status == HTTPStatus.FORBIDDEN and "lacks the scope export" in await reply.text()
    assert await actions(database, 10) == []


async def test_one_who_may_only_export_gets_files_and_manifests(client: Client, database: Database) -> None:
    await record_payments(database, 3)
    signed_in = await Visitor(client).post("/operator/sign-in", {"token": EXPORTER})
    books = Visitor(client, signed_in.cookies[COOKIE].value)
    assert (await books.get("/operator")).status == HTTPStatus.FORBIDDEN
    page = await books.page("/operator/exports?kind=entries&from=2025-01-01&to=")
    assert '/operator/export.csv?from=2025-01-01T00%3A00%3A00Z&amp;kind=entries"' in page.replace(
        "kind=entries&amp;from=2025-01-01T00%3A00%3A00Z", "from=2025-01-01T00%3A00%3A00Z&amp;kind=entries"
    )
    asked = "?kind=entries&from=2025-01-01T00%3A00%3A00Z"
    assert (await books.get(f"/operator/export.csv/manifest{asked}")).status == HTTPStatus.NOT_FOUND
    reply = await books.get(f"/operator/export.csv{asked}")
    assert (reply.status, reply.content_type) == (HTTPStatus.OK, "text/csv")
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    rows = (await reply.text()).count("\r\n") - 1
    manifest = await (await books.get(f"/operator/export.csv/manifest{asked}")).json()
    assert manifest["rows"] == rows > 0
    assert [(row.by, row.action) for row in await actions(database, 10)] == [("books", "export")]

"""Operator tokens, and the ledger that PUBLIC_LEDGER=false closes."""

import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256

import aiohttp
import pytest
from aiohttp import ClientResponse

from daemon.api.app import build
from daemon.api.config import Config
from daemon.api.metrics import ApiMetrics
from daemon.api.tickets import Donations
from daemon.api.webhook import Webhook
from daemon.ledger.reader import Ledger
from daemon.runtime.config import ConfigError
from daemon.runtime.http.addresses import MAX_ADDRESSES, RecentAttempts, client_address
from daemon.runtime.http.auth import (
    MAX_FAILED_ATTEMPTS,
    WINDOW_S,
    OperatorAuthentication,
    Scope,
    parse_tokens,
)
from daemon.simulator import scenarios
from sql.database import Database
from tests.support.api_application import Client, MakeClient, reply_parts
from tests.support.api_process import Api, ended, ready_sidecar, until
from tests.support.ledger import TICKET, ask, fill
from tests.support.postgres import MakeTemplate

READER, OLD_READER, EXPORTER = "reader-token", "old-reader-token", "exporter-token"
WRONG = "wrong-token"


def entry(name: str, scopes: str, token: str) -> str:
    """An entry of OPERATOR_TOKENS, made as SECURITY.md shows."""
    return f"{name}:{scopes}:{sha256(token.encode()).hexdigest()}"


TOKENS = ",".join(
    [entry("anna", "read+act", READER), entry("anna", "read", OLD_READER), entry("books", "export", EXPORTER)]
)
PATH = f"/api/tickets/{TICKET}/donations"
UNKNOWN_PATH = "/api/tickets/no-such-ticket/donations"


def bearer(token: str, **headers: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", **headers}


@pytest.fixture(scope="module")
def template(make_template: MakeTemplate) -> str:
    """The donations of the original design."""
    return make_template(lambda url: ask(url, lambda database: fill(database, scenarios.seed_example(), TICKET)))


@pytest.fixture(scope="module")
def database_url(shared_url: str) -> str:
    """All tests have the same database, which they leave as it is."""
    return shared_url


class Clock:
    """Seconds that the test sets."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def client(database: Database, aiohttp_client: MakeClient, clock: Clock) -> Client:
    """An API with a closed ledger."""
    metrics = ApiMetrics()
    app = build(
        Webhook(None, metrics, secrets=("whsec",), livemode=False, hash_key=None),  # type: ignore[arg-type]
        Donations(Ledger(database), "USD"),
        reply_parts(metrics),
        ledger_access=OperatorAuthentication(parse_tokens(TOKENS), clock),
    )
    return await aiohttp_client(app)


async def whole(reply: ClientResponse) -> tuple[int, dict[str, str], str]:
    """Everything that a client sees of a reply, but for its date."""
    headers = {name: value for name, value in reply.headers.items() if name != "Date"}
    return reply.status, headers, await reply.text()


@pytest.mark.parametrize("token", [READER, OLD_READER])
async def test_each_token_of_a_name_opens_the_closed_ledger(client: Client, token: str) -> None:
    """While a token is replaced, the old and the new one both count; the page is the public one."""
    reply = await client.get(PATH, headers=bearer(token))
    assert reply.status == 200
    assert (await reply.json())["count"] == 4


async def test_the_totals_stay_public(client: Client) -> None:
    """PUBLIC_LEDGER=false closes the ledger endpoint only; totals remain cacheable for any site."""
    reply = await client.get(f"{PATH}/total")
    assert reply.status == 200
    assert reply.headers["Cache-Control"] == "max-age=5"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("authorization", "challenge"),
    [
        (None, 'Bearer realm="donationd"'),
        ("", 'Bearer realm="donationd"'),
        ("Bearer", 'Bearer realm="donationd"'),
        ("Bearer  ", 'Bearer realm="donationd"'),
        ("Basic YW5uYTpyZWFkZXItdG9rZW4=", 'Bearer realm="donationd"'),
        (READER, 'Bearer realm="donationd"'),
        (f"Bearer {WRONG}", 'Bearer realm="donationd", error="invalid_token"'),
        (f"Bearer {READER}x", 'Bearer realm="donationd", error="invalid_token"'),
        (f"Bearer {sha256(READER.encode()).hexdigest()}", 'Bearer realm="donationd", error="invalid_token"'),
        ("Bearer \xff\udcff", 'Bearer realm="donationd", error="invalid_token"'),
    ],
)
async def test_without_a_valid_token_nothing_about_a_ticket_is_shown(
    client: Client, method: str, authorization: str | None, challenge: str
) -> None:
    """401 with the challenge of RFC 6750, the same to the byte for known, unknown and impossible tickets, for a bad
    parameter, and for a client that knows the page's ETag; it is stored nowhere.
    """
    known = (await client.get(PATH, headers=bearer(READER))).headers["ETag"]
    headers = {} if authorization is None else {"Authorization": authorization}
    replies = [
        await whole(await client.request(method, path, headers={**headers, "If-None-Match": etag}))
        for path in (PATH, UNKNOWN_PATH, f"{PATH}?limit=nonsense")
        for etag in ("*", known)
    ]
    status, got, text = replies[0]
    assert all(reply == replies[0] for reply in replies)
    assert status == 401
    assert got["WWW-Authenticate"] == challenge
    assert got["Cache-Control"] == "no-store"
    assert "ETag" not in got
    if method == "GET":
        error = json.loads(text)
        assert (error["success"], error["error"]) == (False, "Unauthorized")


async def test_a_token_in_the_url_opens_nothing(client: Client) -> None:
    """A token counts in the Authorization header only: URLs are logged and remembered."""
    assert (await client.get(PATH, params={"access_token": READER})).status == 401
    reply = await client.get(PATH, params={"access_token": READER}, headers=bearer(READER))
    assert reply.status == 400


async def test_a_token_without_the_scope_is_forbidden(client: Client) -> None:
    """403 names the scope that is missing (RFC 6750, section 3.1), the same for known and unknown tickets."""
    known, unknown = [await whole(await client.get(path, headers=bearer(EXPORTER))) for path in (PATH, UNKNOWN_PATH)]
    assert known == unknown
    status, headers, text = known
    assert status == 403
    assert headers["WWW-Authenticate"] == 'Bearer realm="donationd", error="insufficient_scope", scope="read"'
    assert headers["Cache-Control"] == "no-store"
    assert json.loads(text)["error"] == "Forbidden"


async def test_no_cache_may_keep_a_page_of_the_closed_ledger(client: Client) -> None:
    """With a token, a page, a 304, an unknown ticket and a bad parameter are all `no-store`."""
    page = await client.get(PATH, headers=bearer(READER))
    same = await client.get(PATH, headers=bearer(READER, **{"If-None-Match": page.headers["ETag"]}))
    unknown = await client.get(UNKNOWN_PATH, headers=bearer(READER))
    bad = await client.get(f"{PATH}?limit=0", headers=bearer(READER))
    replies = [page, same, unknown, bad]
    assert [reply.status for reply in replies] == [200, 304, 404, 400]
    assert {reply.headers["Cache-Control"] for reply in replies} == {"no-store"}


@pytest.mark.parametrize("token", [READER, OLD_READER, EXPORTER, WRONG])
async def test_a_token_is_compared_with_each_entry(client: Client, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever entry a token belongs to, if any, it is compared in constant time with all of them."""
    compared = list[str]()

    def compare(one: str, other: str) -> bool:
        compared.append(one)
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    await client.get(PATH, headers=bearer(token))
    assert compared == [each.sha256 for each in parse_tokens(TOKENS)]


@asynccontextmanager
async def session_from(address: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A client with this address of the loopback network."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(local_addr=(address, 0))) as session:
        yield session


async def test_failed_attempts_are_limited_per_address(client: Client, clock: Clock) -> None:
    """After 10 wrong tokens within a minute an address gets 429, with the right token too, so that guessing teaches
    nothing; other addresses are served, and a minute after the first attempts it is served again.
    """
    for _ in range(MAX_FAILED_ATTEMPTS):
        assert (await client.get(PATH, headers=bearer(WRONG))).status == 401
    clock.now_s += 18.5
    for token in (WRONG, READER):
        reply = await client.get(PATH, headers=bearer(token))
        assert reply.status == 429
        assert (await reply.json())["error"] == "Too Many Requests"
        assert reply.headers["Retry-After"] == "42"
        assert reply.headers["Cache-Control"] == "no-store"
    async with session_from("127.0.0.2") as other, other.get(client.make_url(PATH), headers=bearer(READER)) as reply:
        assert reply.status == 200
    clock.now_s += 42
    assert (await client.get(PATH, headers=bearer(READER))).status == 200


async def test_only_wrong_tokens_are_failed_attempts(client: Client) -> None:
    """Requests without a token, with a valid one, or with one that lacks the scope do not count."""
    for headers in ({}, bearer(READER), bearer(EXPORTER)):
        for _ in range(MAX_FAILED_ATTEMPTS + 1):
            await client.get(PATH, headers=headers)
    assert (await client.get(PATH, headers=bearer(READER))).status == 200


def test_at_no_time_more_than_ten_failures_within_a_minute(clock: Clock) -> None:
    """Whenever an address tries, and however often, no minute has more than 10 attempts that were looked at."""
    failures, tried = RecentAttempts(MAX_FAILED_ATTEMPTS, WINDOW_S, clock), list[float]()
    for step in range(3000):
        clock.now_s += (0.1, 0.7, 13.0)[step % 3 if step % 50 == 0 else step % 2]
        if not failures.wait_s("192.0.2.1"):
            failures.add("192.0.2.1")
            tried.append(clock.now_s)
    assert len(tried) > 100
    assert all(later - first >= WINDOW_S for first, later in zip(tried, tried[MAX_FAILED_ATTEMPTS:], strict=False))


def test_addresses_that_fail_take_bounded_memory(clock: Clock) -> None:
    """However many addresses fail, a fixed number is remembered: those that failed last."""
    failures = RecentAttempts(MAX_FAILED_ATTEMPTS, WINDOW_S, clock)
    for number in range(MAX_ADDRESSES + 1000):
        for _ in range(MAX_FAILED_ATTEMPTS + 5):
            failures.add(str(number))
    remembered = [number for number in range(MAX_ADDRESSES + 1000) if failures.wait_s(str(number))]
    assert remembered == list(range(1000, MAX_ADDRESSES + 1000))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:1:2:3", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        (None, "192.0.2.1", False),
        (None, "", True),
    ],
)
def test_an_ipv6_host_does_not_get_more_attempts_by_its_many_addresses(
    one: str | None, other: str | None, same: bool
) -> None:
    """The /64 network of an IPv6 host counts as one address, an IPv4 address written as IPv6 as that IPv4 address."""
    assert (client_address(one) == client_address(other)) is same


def config(tokens: str) -> Config:
    return Config.from_environ(
        {"DATABASE_URL": "postgresql://", "STRIPE_WEBHOOK_SECRET": "whsec_" + "a" * 32, "OPERATOR_TOKENS": tokens}
    )


def test_tokens_are_read_from_the_environment() -> None:
    """Name, scopes and hash of each entry, spaces around entries and capital hexadecimal digits not counting."""
    digest = sha256(READER.encode()).hexdigest()
    anna, books = config(f" anna:read+act:{digest.upper()} , {entry('books', 'export', EXPORTER)}").operator_tokens
    assert (anna.name, anna.scopes, anna.sha256) == ("anna", frozenset({Scope.READ, Scope.ACT}), digest)
    assert (books.name, books.scopes) == ("books", frozenset({Scope.EXPORT}))
    assert config("").operator_tokens == ()
    assert digest not in repr(config(TOKENS))


@pytest.mark.parametrize(
    "wrong",
    [
        "anna:read",
        f"anna:read:{'0' * 63}",
        f"anna:read:{'g' * 64}",
        f"anna::{'0' * 64}",
        f"anna:write:{'0' * 64}",
        f"anna:read+:{'0' * 64}",
        f"anna:read act:{'0' * 64}",
        f":read:{'0' * 64}",
        f"an na:read:{'0' * 64}",
        f"{'a' * 65}:read:{'0' * 64}",
        f"anna:read:{'0' * 64}:more",
        "",
    ],
)
def test_each_wrong_entry_is_counted_out_and_none_is_repeated(wrong: str) -> None:
    """A mistake names the entries by their numbers, all of them at once, and shows nothing of their text."""
    with pytest.raises(ConfigError) as caught:
        config(f"{wrong},{entry('anna', 'read', READER)},hunter2")
    [problem] = caught.value.problems
    assert problem.startswith("OPERATOR_TOKENS: entries 1, 3: ")
    assert "hunter2" not in problem
    assert wrong == "" or wrong not in problem


def test_one_token_belongs_to_one_entry() -> None:
    """The same hash twice is refused, because its name and scopes would not be certain."""
    with pytest.raises(ConfigError, match="OPERATOR_TOKENS: entries 1, 2: "):
        config(f"{entry('anna', 'read', READER)},{entry('books', 'act', READER)}")


async def test_the_api_process_closes_the_ledger_when_it_is_asked_to(api: Api) -> None:
    """PUBLIC_LEDGER=false: 401, and 200 with a token of OPERATOR_TOKENS; no line of its log has any of the tokens."""
    api.environ |= {"PUBLIC_LEDGER": "false", "OPERATOR_TOKENS": TOKENS, "LOG_LEVEL": "DEBUG"}
    async with ready_sidecar(api.socket), api.running() as process:
        await until(process, "listening on")
        async with aiohttp.ClientSession(api.base) as session:
            statuses = [
                (await session.get(PATH, headers=headers)).status
                for headers in ({}, bearer(WRONG), bearer(EXPORTER), bearer(READER))
            ]
        process.terminate()
        await ended(process)
    assert statuses == [401, 401, 403, 200]
    assert not any(token in api.log.read_text() for token in (READER, EXPORTER, WRONG))


async def test_a_closed_ledger_without_tokens_is_closed_to_everybody(api: Api) -> None:
    """PUBLIC_LEDGER=false is a configuration without OPERATOR_TOKENS too; then no request opens the ledger."""
    api.environ |= {"PUBLIC_LEDGER": "false"}
    async with ready_sidecar(api.socket), api.running() as process:
        await until(process, "listening on")
        async with aiohttp.ClientSession(api.base) as session:
            assert (await session.get(PATH)).status == 401
            assert (await session.get(PATH, headers=bearer(READER))).status == 401

"""The endpoint that begins a payment, with Stripe's client replaced by one that answers as the test says."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web

from daemon.api.checkout import Checkout, CheckoutSettings
from daemon.api.checkout_limits import CheckoutLimits
from daemon.ledger import tickets
from daemon.ledger.events.sessions import SHOW_NAME_KEY
from daemon.ledger.tickets import State, TicketChange
from daemon.runtime.http.addresses import TrustedProxies
from daemon.runtime.http.limits import Places
from daemon.simulator import sender
from daemon.simulator.fake_stripe.checkout_sessions import pay
from daemon.simulator.fake_stripe.failures import Failure
from daemon.simulator.fake_stripe.fake import TEST_KEY, FakeStripe
from daemon.simulator.scenarios import generate
from daemon.simulator.stripe_objects import Donor, Json
from daemon.stripe_api.charge_amounts import parse_fees
from daemon.stripe_api.client import Reply, StripeRejected, StripeUnavailable
from sql.database import Database
from tests.support.api_application import NOW, SECRET, Client, MakeClient, application, follower
from tests.support.balance import client_of
from tests.support.reports import record

URL = "https://checkout.stripe.com/c/pay/cs_test_1"
KEY = "0d1f6a4e-3c1b-4b59-9a55-cc13d8a1a5f0"
PATH = "/api/tickets/story-1/checkout"
WANTED = {"amount": "25.00"}


class Stripe:
    """Answers every call with `answer`: a body, or an error."""

    def __init__(self) -> None:
        self.answer: bytes | Exception = json.dumps({"id": "cs_test_1", "url": URL}).encode()
        self.calls: list[tuple[Mapping[str, Any], str]] = []
        self.waiting = asyncio.Semaphore(0)  # one for each call that has begun
        self.released = asyncio.Event()
        self.released.set()

    async def post(self, path: str, params: Mapping[str, Any], *, idempotency_key: str) -> Reply:
        self.calls.append((params, idempotency_key))
        self.waiting.release()
        await self.released.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return Reply(self.answer, 0)


class Clock:
    now = datetime(2026, 11, 26, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def add(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def limits(database: Database, clock: Clock | None = None, *, in_total: int = 50) -> CheckoutLimits:
    return CheckoutLimits(database, per_address=10, in_total=in_total, secret=SECRET, now=clock or (lambda: None))


@pytest.fixture
def stripe() -> Stripe:
    return Stripe()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def client(database: Database, aiohttp_client: MakeClient, stripe: Stripe, clock: Clock) -> Client:
    """An API with an open, a closed and a hidden ticket, two places for checkouts and a trusted proxy."""
    for id_, state in (("story-1", State.OPEN), ("closed", State.CLOSED), ("hidden", State.HIDDEN)):
        await tickets.put(database, id_, TicketChange(state=state), actor="test", default_currency="EUR")
    return await aiohttp_client(shop_of(database, stripe, limits(database, clock)))


def shop_of(database: Database, stripe: Stripe, limits: CheckoutLimits) -> web.Application:
    settings = CheckoutSettings("EUR", "https://give.example.org", parse_fees("EUR 1.5% + 0.25"))
    checkout = Checkout(database, stripe, settings, limits, Places("checkouts", 2))  # type: ignore[arg-type]
    return application(
        database, follower(), feature_routes=checkout.routes(), trusted_proxies=TrustedProxies.parse("127.0.0.1")
    )


async def test_a_request_becomes_a_session(client: Client, stripe: Stripe) -> None:
    """The reply is the session's URL; what Stripe is asked for covers the fee, in the ticket's currency."""
    reply = await client.post(PATH, json={**WANTED, "coverFees": True}, headers={"Idempotency-Key": KEY})
    assert (reply.status, await reply.json()) == (200, {"url": URL})
    assert reply.headers["Cache-Control"] == "no-store"
    assert "Access-Control-Allow-Origin" not in reply.headers
    [(params, key)] = stripe.calls
    assert params["line_items"][0]["price_data"]["unit_amount"] == 2564  # 1.5 % of it and 0.25 are 0.64
    assert params["line_items"][0]["price_data"]["currency"] == "eur"
    assert key.startswith(f"{KEY}-")


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "said"),
    [
        (PATH, '{"amount":"0.10"}', {}, 400, "amount: the smallest amount in EUR is 0.50"),
        (PATH, '{"amount":5,"currency":"euro"}', {}, 400, "currency: three letters, such as EUR"),
        (PATH, "{}", {}, 400, "amount: not given"),
        (PATH, "amount=5", {}, 400, "the body is not JSON"),
        (PATH, '{"amount":5}', {"Idempotency-Key": "1"}, 400, "Idempotency-Key: 16 to 200 visible"),
        (PATH, '{"amount":5}', {"Sec-Fetch-Site": "cross-site"}, 403, "link to the ticket's page instead"),
        ("/api/tickets/unknown/checkout", '{"amount":5}', {}, 404, "there is no ticket unknown"),
        ("/api/tickets/hidden/checkout", '{"amount":5}', {}, 404, "there is no ticket hidden"),
        ("/api/tickets/closed/checkout", '{"amount":5}', {}, 409, "ticket closed is closed"),
        (PATH, '{"amount":5,"currency":"' + "E" * 5000 + '"}', {}, 413, ""),
    ],
)
async def test_a_request_that_becomes_no_session(
    client: Client, stripe: Stripe, *, path: str, body: str, headers: dict[str, str], status: int, said: str
) -> None:
    """The reply says what to do; Stripe is not asked."""
    reply = await client.post(path, data=body, headers={"Content-Type": "application/json", **headers})
    error = await reply.json()
    assert (reply.status, error["success"]) == (status, False)
    assert said in error["message"]
    assert stripe.calls == []


async def test_there_is_no_get_form(client: Client) -> None:
    """A link, a crawler or an image cannot begin a payment."""
    reply = await client.get(f"{PATH}?amount=5")
    assert (reply.status, reply.headers["Allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("answer", "status", "retry_after", "said"),
    [
        (StripeUnavailable("timeout"), 503, "30", "does not answer"),
        (StripeUnavailable("too many requests", 6.2), 503, "7", "does not answer"),
        (StripeRejected(401, None, None, None), 502, None, "rejects every payment"),
        (StripeRejected(400, "amount_too_small", None, None), 400, None, "amount: "),
        (StripeRejected(400, None, "line_items[0][price_data][currency]", None), 400, None, "currency: "),
        (b'{"id":"cs_1"}', 502, None, "not answer as expected"),
    ],
)
async def test_stripe_fails(
    client: Client, stripe: Stripe, *, answer: bytes | Exception, status: int, retry_after: str | None, said: str
) -> None:
    """Each failure of Stripe has its status and says what to do."""
    stripe.answer = answer
    reply = await client.post(PATH, json=WANTED)
    assert (reply.status, reply.headers.get("Retry-After")) == (status, retry_after)
    assert said in (await reply.json())["message"]


async def test_ten_sessions_an_hour_from_one_address(client: Client, stripe: Stripe, clock: Clock) -> None:
    """The client's address is what the trusted proxy names; the eleventh gets 429 and learns how long to wait."""
    here, elsewhere = {"X-Forwarded-For": "192.0.2.1"}, {"X-Forwarded-For": "192.0.2.1, 192.0.2.2"}
    for _ in range(10):
        assert (await client.post(PATH, json=WANTED, headers=here)).status == 200
    clock.add(3590)
    reply = await client.post(PATH, json=WANTED, headers=here)
    assert (reply.status, reply.headers["Retry-After"]) == (429, "10")
    assert (await client.post(PATH, json=WANTED, headers=elsewhere)).status == 200
    clock.add(10)
    assert (await client.post(PATH, json=WANTED, headers=here)).status == 200
    assert len(stripe.calls) == 12


async def test_two_processes_count_together(
    database: Database, aiohttp_client: MakeClient, client: Client, stripe: Stripe, clock: Clock
) -> None:
    """An address has its ten sessions an hour at two applications of one database together."""
    other = await aiohttp_client(shop_of(database, stripe, limits(database, clock)))
    here = {"X-Forwarded-For": "192.0.2.1"}
    statuses = [(await (client, other)[turn % 2].post(PATH, json=WANTED, headers=here)).status for turn in range(12)]
    assert statuses == [200] * 10 + [429] * 2


async def test_sessions_are_limited_in_total(client: Client, clock: Clock) -> None:
    """Card testers use many addresses; all together begin at most so many sessions in a minute."""
    statuses = [
        (await client.post(PATH, json=WANTED, headers={"X-Forwarded-For": f"192.0.2.{number}"})).status
        for number in range(52)
    ]
    assert statuses == [200] * 50 + [429] * 2
    clock.add(60)
    assert (await client.post(PATH, json=WANTED)).status == 200


async def test_a_stripe_that_hangs_keeps_only_the_places_of_checkouts_busy(client: Client, stripe: Stripe) -> None:
    """While two checkouts wait for Stripe a third one gets 503, and everything else is answered: signed webhooks too,
    which are recorded."""
    stripe.released.clear()
    waiting = [asyncio.create_task(client.post(PATH, json=WANTED)) for _ in range(2)]
    for _ in waiting:
        await stripe.waiting.acquire()
    third = asyncio.create_task(client.post(PATH, json=WANTED))
    assert (await client.get("/api/tickets/story-1/donations/total")).status == 200
    events = [event for each in generate(1, 5, ["story-1"], now=NOW) for event in each.events]
    for body in map(sender.encode, events):
        delivered = await client.post(
            "/webhooks/stripe", data=body, headers={"Stripe-Signature": sender.sign(body, SECRET, NOW)}
        )
        assert (delivered.status, (await delivered.json())["idempotent"]) == (200, False)
    assert not any(each.done() for each in waiting)
    reply = await third
    assert (reply.status, reply.headers["Retry-After"]) == (503, "30")
    stripe.released.set()
    assert [reply.status for reply in await asyncio.gather(*waiting)] == [200, 200]


@pytest.mark.parametrize("missing", ["STRIPE_API_KEY", "PUBLIC_URL"])
async def test_without_what_it_needs_it_says_so(database: Database, aiohttp_client: MakeClient, missing: str) -> None:
    """503 names the setting that is missing."""
    public_url = None if missing == "PUBLIC_URL" else "https://give.example.org"
    stripe = None if missing == "STRIPE_API_KEY" else Stripe()
    settings = CheckoutSettings("EUR", public_url, {})
    checkout = Checkout(database, stripe, settings, limits(database), Places("checkouts", 1))  # type: ignore[arg-type]
    client = await aiohttp_client(application(database, follower(), feature_routes=checkout.routes()))
    reply = await client.post(PATH, json=WANTED)
    assert reply.status == 503
    assert missing in (await reply.json())["message"]


# --- With the fake of Stripe's API ------------------------------------------------------------------------------------


@pytest.fixture
async def shop(database: Database, aiohttp_client: MakeClient, fake_stripe: FakeStripe) -> AsyncIterator[Client]:
    """An API with an open ticket, whose checkouts are made by the fake."""
    await tickets.put(database, "story-1", TicketChange(currency="EUR"), actor="test", default_currency="EUR")
    settings = CheckoutSettings("EUR", "https://give.example.org", parse_fees("EUR 1.5% + 0.25"))
    async with client_of(fake_stripe) as stripe:
        checkout = Checkout(database, stripe, settings, limits(database), Places("checkouts", 2))
        yield await aiohttp_client(application(database, follower(), feature_routes=checkout.routes()))


@pytest.mark.parametrize("monthly", [False, True])
@pytest.mark.parametrize("answer", [None, "yes", "no"])
async def test_what_a_donor_gives_reaches_the_ledger(
    shop: Client, database: Database, fake_stripe: FakeStripe, *, monthly: bool, answer: str | None
) -> None:
    """The session that is made is paid: its donation has the ticket, the covered amount, and the donor's last answer to
    the question about the name."""
    events: list[Json] = []
    fake_stripe.world.on_events = events.extend
    wanted = {"amount": 25, "monthly": monthly, "coverFees": True, "showName": True}
    url = (await (await shop.post(PATH, json=wanted)).json())["url"]
    donor = Donor("Ada Example", None, "DE", "ada@example.org", None, None, None, None)
    answers = {} if answer is None else {SHOW_NAME_KEY: answer}
    pay(fake_stripe.world, url.rpartition("/")[2], donor, fake_stripe.now, answers=answers)
    await record(database, events)
    rows = await database.fetch("SELECT ticket_id, status, amount_minor, currency, consent FROM stripe_attributions")
    assert rows == [("story-1", "PAID", 2564, "EUR", answer != "no")]


async def test_a_request_that_is_repeated_gives_the_same_session(shop: Client, fake_stripe: FakeStripe) -> None:
    """With one Idempotency-Key the same request is one session, however often it is sent; another amount is another."""

    async def url(amount: int) -> str:
        reply = await shop.post(PATH, json={"amount": amount}, headers={"Idempotency-Key": KEY})
        return str((await reply.json())["url"])

    assert await url(5) == await url(5) != await url(6)
    assert len(fake_stripe.world.collections["checkout.session"]) == 2


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (Failure("status", status=500, times=None), 503),
        (Failure("status", status=429, times=None, retry_after=7), 503),
        (Failure("malformed", times=None), 503),
        (Failure("truncated", times=None), 503),
        (Failure("disconnect", times=None), 503),
        (Failure("status", times=1), 200),
    ],
)
async def test_a_stripe_that_fails(shop: Client, fake_stripe: FakeStripe, failure: Failure, status: int) -> None:
    """A failure that passes is not noticed; one that lasts is 503 with Retry-After."""
    fake_stripe.failures.add(failure)
    reply = await shop.post(PATH, json=WANTED)
    assert reply.status == status
    assert status == 200 or int(reply.headers["Retry-After"]) > 0


async def test_a_key_without_the_permission(shop: Client, fake_stripe: FakeStripe) -> None:
    """502: trying again is of no use, and the log says what the operator must do."""
    fake_stripe.failures.permissions[TEST_KEY] = {"checkout_session_read"}
    assert (await shop.post(PATH, json=WANTED)).status == 502

"""The fake of Stripe's API: what a client sees of a world, page by page, and what can be made to go wrong."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import encode_basic_auth
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.simulator.api_versions import TODAY
from daemon.simulator.collection import Collection, Part
from daemon.simulator.copies import MARKER
from daemon.simulator.fake_stripe.failures import Failure
from daemon.simulator.fake_stripe.fake import TEST_KEY, FakeStripe
from daemon.simulator.fake_stripe.parameters import nested
from daemon.simulator.fake_stripe.server import serving
from daemon.simulator.scenarios import generate
from daemon.simulator.stripe_objects import DAY_S, Json
from daemon.simulator.world import Event, World
from tests.simulator.oracle import expected_donations
from tests.support.model_ledger import as_row, derived
from tests.support.stripe_client import StripeClient

NOW = 1_800_000_000
SCENARIOS = generate(3, 60, ["story-1", "story-2"], now=NOW)
LISTS = {
    "payment_intents": "payment_intent",
    "charges": "charge",
    "customers": "customer",
    "refunds": "refund",
    "disputes": "dispute",
    "checkout/sessions": "checkout.session",
    "invoices": "invoice",
    "invoice_payments": "invoice_payment",
    "subscriptions": "subscription",
}


@pytest.fixture
async def client() -> AsyncIterator[StripeClient]:
    """A client of a fake with sixty payments, whose clock stands still."""
    fake = FakeStripe(clock=lambda: NOW)
    fake.add(SCENARIOS)
    async with serving(fake), aiohttp.ClientSession() as http:
        yield StripeClient(fake, http)


# --- Lists


@pytest.mark.parametrize(("path", "type_"), LISTS.items())
async def test_every_object_is_listed_once_and_read_alike(client: StripeClient, path: str, type_: str) -> None:
    """Pages contain every object of the world once, the newest first; reading one gives what the list gave."""
    stored = client.fake.world.collections[type_]
    ids = await client.all_of(path)
    assert ids == [thing.id for thing in stored][::-1]
    assert len(ids) > 2
    first = (await client.ask(f"{path}?limit=1")).body["data"][0]
    assert (await client.ask(f"{path}/{ids[0]}")).body == first
    assert first["object"] == type_


async def test_objects_agree_with_the_newest_events(client: StripeClient) -> None:
    """An object that the API gives equals the one of its newest event, but for what no event reports."""
    newest: dict[str, Json] = {}
    for event in itertools.chain.from_iterable(scenario.events for scenario in SCENARIOS):
        newest[event["data"]["object"]["id"]] = event["data"]["object"]
    for id_, shown in newest.items():
        thing = client.fake.world.find(id_)
        assert thing is not None
        now = thing.render(TODAY)
        unreported = {"balance_transaction", "disputed", "amount_refunded", "refunded"}
        assert {name for name in now if now[name] != shown.get(name)} <= unreported


async def test_events_are_listed_for_thirty_days(client: StripeClient) -> None:
    """Events of the last 30 days are listed as they were sent; older ones are neither listed nor found."""
    sent = {event["id"]: event for scenario in SCENARIOS for event in scenario.events}
    young = {id_ for id_, event in sent.items() if event["created"] >= NOW - 30 * DAY_S}
    assert set(await client.all_of("events", 100)) == young < sent.keys()
    page = await client.ask("events?limit=100&type=charge.succeeded")
    assert {event["type"] for event in page.body["data"]} == {"charge.succeeded"}
    assert all(event == sent[event["id"]] for event in page.body["data"])
    assert (await client.ask(f"events/{min(sent.keys() - young)}")).status == 404


async def test_filters(client: StripeClient) -> None:
    """Lists are restricted to what belongs to an object, and to a time."""
    refund = (await client.ask("refunds")).body["data"][0]
    assert (await client.ask(f"charges?payment_intent={refund['payment_intent']}")).ids == [refund["charge"]]
    assert refund["id"] in (await client.ask(f"refunds?charge={refund['charge']}")).ids
    at = refund["created"]
    before = (await client.ask(f"refunds?limit=100&created[lt]={at}")).ids
    after = (await client.ask(f"refunds?limit=100&created[gt]={at}")).ids
    then = (await client.ask(f"refunds?limit=100&created={at}")).ids
    assert after + then + before == await client.all_of("refunds")
    assert refund["id"] in then


async def test_expanded_objects(client: StripeClient) -> None:
    """`expand[]` puts whole objects in the place of their ids, in lists and below other objects."""
    refund = (await client.ask("refunds?limit=1&expand[]=data.charge.payment_intent")).body["data"][0]
    assert refund["charge"]["object"] == "charge"
    assert refund["charge"]["payment_intent"]["latest_charge"] == refund["charge"]["id"]
    assert (await client.ask("refunds?expand[]=data.amount")).status == 400


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=12), st.integers(1, 4), st.booleans())
def test_pages_skip_nothing(seconds: list[int], limit: int, backwards: bool) -> None:
    """However many objects have the same second, pages in either direction contain each object once and in order."""
    collection = Collection[Event]()
    for index, second in enumerate(seconds):
        collection.add(Event({"id": f"evt_{index * 7 % 13}", "created": second, "type": "a"}))
    whole = [thing.id for thing in collection][::-1]
    pages: list[str] = []
    while True:
        after, before = (None, pages[0]) if backwards and pages else (pages[-1] if pages else None, None)
        if backwards and not pages:
            before, pages = whole[-1] if whole else None, whole[-1:]
        found, has_more = collection.part(Part(limit, after, before))
        ids = [thing.id for thing in found]
        pages = ids + pages if backwards and before else pages + ids
        assert has_more == (len(pages) < len(whole))
        if not has_more:
            break
    assert pages == whole


def test_large_worlds() -> None:
    """Copies have ids of their own and differ in nothing else, so that each is a payment as the original is."""
    originals = generate(5, 20, ["story-1"], now=NOW, id_end=MARKER)
    world = World()
    world.add_copies(originals, 3)
    single = World()
    single.add(originals)
    assert {name: len(things) for name, things in world.collections.items()} == {
        name: 3 * len(things) for name, things in single.collections.items()
    }
    assert all(each.id == each.render(TODAY)["id"] for things in world.collections.values() for each in things)
    expected = sorted(as_row(end) for scenario in originals for end in expected_donations(scenario))
    for number in range(3):
        mark = f"{number:0{len(MARKER)}}"
        events = [event.render(TODAY) for event in world.collections["event"] if event.id.endswith(mark)]
        assert json.loads(json.dumps(derived(events))) == json.loads(json.dumps(expected).replace(MARKER, mark))
    world.settle(NOW)
    payments = [each for each in world.collections["balance_transaction"] if each.source and MARKER not in each.source]
    assert len(payments) == len({each.id for each in payments}) > 3


# --- API versions


@pytest.mark.parametrize(("version", "is_old"), [("2024-09-30.acacia", True), ("2025-03-31.basil", False)])
async def test_each_version_has_its_shapes(client: StripeClient, version: str, is_old: bool) -> None:
    """Before 2025-03 PaymentIntents, charges and invoices name each other; since then other fields link them."""
    shown = {path: (await client.ask(path, Stripe_Version=version)).body["data"][0] for path in LISTS}
    assert ("invoice" in shown["payment_intents"], "invoice" in shown["charges"]) == (is_old, is_old)
    assert ("payment_intent" in shown["invoices"], "parent" in shown["invoices"]) == (is_old, not is_old)
    assert isinstance(shown["payment_intents"]["latest_charge"], str | None)


# --- Who may ask


async def test_keys(client: StripeClient) -> None:
    """A bearer token or basic authentication is needed; a key of live mode sees objects of live mode only."""
    client.fake.keys.add("sk_live_fake")
    url = f"{client.fake.base_url}/v1/charges"
    async with client.http.get(url) as response:
        assert response.status == 401
    async with client.http.get(url, headers={"Authorization": encode_basic_auth(TEST_KEY)}) as response:
        assert response.status == 200
    assert (await client.ask("charges", key="sk_test_other")).status == 401
    assert (await client.ask("charges", key="sk_live_fake")).ids == []


async def test_connected_accounts(client: StripeClient) -> None:
    """`Stripe-Account` names whose objects are asked for; an unknown account is rejected."""
    assert (await client.ask("account")).body["id"] == "acct_1Fake"
    client.fake.world_of(livemode=False, account="acct_1")
    assert (await client.ask("charges", Stripe_Account="acct_1")).ids == []
    assert (await client.ask("account", Stripe_Account="acct_1")).body["id"] == "acct_1"
    assert (await client.ask("charges", Stripe_Account="acct_2")).error["code"] == "account_invalid"


async def test_restricted_keys(client: StripeClient) -> None:
    """A restricted key may do what its permissions say, and the error names the one that it lacks."""
    client.fake.keys.add("rk_test_fake")
    client.fake.failures.permissions["rk_test_fake"] = {"charge_read"}
    assert (await client.ask("charges", key="rk_test_fake")).status == 200
    reply = await client.ask("disputes", key="rk_test_fake")
    assert (reply.status, "rak_dispute_read" in reply.error["message"]) == (403, True)


# --- Requests that are rejected


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("charges?limit=0", 400, None),
        ("charges?limit=101", 400, None),
        ("charges?limit=ten", 400, "parameter_invalid_integer"),
        ("charges?colour=red", 400, "parameter_unknown"),
        ("charges?created[after]=1", 400, "parameter_unknown"),
        ("charges?starting_after=ch_none", 400, "resource_missing"),
        ("charges?starting_after=a&ending_before=b", 400, None),
        ("charges/ch_none", 404, "resource_missing"),
        ("unknown", 404, None),
    ],
)
async def test_what_stripe_rejects(client: StripeClient, path: str, status: int, code: str | None) -> None:
    """The reply is Stripe's error object."""
    reply = await client.ask(path)
    assert (reply.status, reply.error.get("code")) == (status, code)
    assert reply.error["type"] == "invalid_request_error"


def test_nested_parameters() -> None:
    """Brackets name objects and lists."""
    pairs = [("a[b][c]", "1"), ("a[b][d]", "2"), ("e[]", "3"), ("e[]", "4"), ("f[1]", "5"), ("g", "")]
    assert nested(pairs) == {"a": {"b": {"c": "1", "d": "2"}}, "e": ["3", "4"], "f": ["5"], "g": ""}


# --- Webhook endpoints and idempotency

ENDPOINT = {"url": "https://give.example.org/webhooks/stripe", "enabled_events[0]": "charge.succeeded"}


async def test_webhook_endpoints(client: StripeClient) -> None:
    """An endpoint is created, changed, disabled, listed and deleted; its secret is shown once."""
    made = (await client.ask("webhook_endpoints", ENDPOINT)).body
    assert made["secret"].startswith("whsec_")
    path = f"webhook_endpoints/{made['id']}"
    changed = await client.ask(path, {"enabled_events[]": "charge.failed", "disabled": "true"})
    assert (changed.body["enabled_events"], changed.body["status"]) == (["charge.failed"], "disabled")
    assert (await client.ask("webhook_endpoints")).body["data"] == [changed.body]
    assert "secret" not in changed.body
    assert (await client.ask(path, method="DELETE")).body["deleted"]
    assert (await client.ask(path)).status == 404


async def test_idempotency(client: StripeClient) -> None:
    """The same key and parameters give the same reply, and nothing is done twice; other parameters are an error."""
    first = await client.ask("webhook_endpoints", ENDPOINT, Idempotency_Key="once")
    again = await client.ask("webhook_endpoints", ENDPOINT, Idempotency_Key="once")
    assert (again.body, again.headers["Idempotent-Replayed"]) == (first.body, "true")
    other = await client.ask("webhook_endpoints", ENDPOINT | {"description": "x"}, Idempotency_Key="once")
    assert (other.status, other.error["type"]) == (400, "idempotency_error")
    assert len((await client.ask("webhook_endpoints")).ids) == 1


# --- Failures


async def test_status_and_retry_after(client: StripeClient) -> None:
    """Requests fail as often as was asked for, from the one on that was asked for, and the others succeed."""
    client.fake.failures.add(Failure(path="GET /v1/charges", status=429, retry_after=3, times=2, skip=1))
    replies = [await client.ask(path) for path in ("charges", "refunds", "charges", "charges", "charges")]
    assert [reply.status for reply in replies] == [200, 200, 429, 429, 200]
    assert replies[2].headers["Retry-After"] == "3"
    assert [call.status for call in client.fake.calls] == [200, 200, 429, 429, 200]


async def test_a_lost_reply_can_be_asked_for_again(client: StripeClient) -> None:
    """A request whose reply alone failed has had its effect, and its idempotency key gives the reply."""
    client.fake.failures.add(Failure(status=500, after_work=True))
    assert (await client.ask("webhook_endpoints", ENDPOINT, Idempotency_Key="once")).status == 500
    again = await client.ask("webhook_endpoints", ENDPOINT, Idempotency_Key="once")
    assert (again.status, again.headers["Idempotent-Replayed"]) == (200, "true")


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (Failure("malformed"), json.JSONDecodeError),
        (Failure("truncated"), aiohttp.ClientPayloadError),
        (Failure("disconnect", times=2), aiohttp.ServerDisconnectedError),
    ],
)
async def test_damaged_replies(client: StripeClient, failure: Failure, error: type[Exception]) -> None:
    """JSON that ends in the middle, a body shorter than announced, and none at all, which the client tries twice."""
    client.fake.failures.add(failure)
    with pytest.raises(error):
        await client.ask("charges")
    assert (await client.ask("charges")).status == 200


async def test_slow_and_hanging_replies(client: StripeClient) -> None:
    """A slow reply is correct; a hanging one does not come, and does not delay the end of the fake."""
    client.fake.failures.add(Failure("slow", seconds=0.01))
    assert (await client.ask("charges")).status == 200
    client.fake.failures.add(Failure("hang"))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await client.ask("charges")


async def test_hidden_objects(client: StripeClient) -> None:
    """A hidden object is neither listed nor found, as one that another account has."""
    first = (await client.ask("charges?limit=1")).ids[0]
    client.fake.failures.hidden.add(first)
    assert first not in await client.all_of("charges")
    assert (await client.ask(f"charges/{first}")).status == 404


# --- The balance


async def test_payouts_add_up(client: StripeClient) -> None:
    """Each payout is the sum of its transactions, its own included, to the minor unit; each is in one payout."""
    payouts = await client.all_of("payouts")
    seen: list[str] = []
    for id_ in payouts:
        parts = (await client.ask(f"balance_transactions?limit=100&payout={id_}")).body
        assert not parts["has_more"]
        assert sum(each["net"] for each in parts["data"]) == 0
        seen += [each["id"] for each in parts["data"]]
    assert len(payouts) > 5
    assert len(set(seen)) == len(seen)
    kinds = {each.type for each in client.fake.world.collections["balance_transaction"]}
    assert {"charge", "payment", "refund", "refund_failure", "adjustment", "reserve_hold", "stripe_fee"} <= kinds


async def test_every_movement_has_its_transaction(client: StripeClient) -> None:
    """Charges name their transactions, which name them; disputes contain theirs, with the fee once."""
    charges = [each for each in (await client.ask("charges?limit=100")).body["data"] if each["amount_captured"]]
    for charge in charges:
        transaction = (await client.ask(f"balance_transactions/{charge['balance_transaction']}")).body
        assert (transaction["source"], transaction["net"]) == (charge["id"], transaction["amount"] - transaction["fee"])
        assert (transaction["exchange_rate"] is None) == (charge["currency"] == transaction["currency"])
    won = [each for each in (await client.ask("disputes?limit=100")).body["data"] if each["status"] == "won"]
    for dispute in won:
        assert [each["fee"] for each in dispute["balance_transactions"]] == [1500, 0]
        assert sum(each["amount"] for each in dispute["balance_transactions"]) == 0
    assert charges
    assert won


def test_later_payments_wait_for_the_next_payout() -> None:
    """What was paid out stays so, whatever becomes known later; every transaction is paid out once in the end."""
    world = World()
    world.add(SCENARIOS[:30])
    world.settle(NOW)
    before = [payout.render(TODAY) | {"status": None} for payout in world.collections["payout"]]
    world.add(SCENARIOS[30:])
    world.settle(NOW + 30 * DAY_S)
    after = [payout.render(TODAY) | {"status": None} for payout in world.collections["payout"]]
    assert after[: len(before)] == before
    assert len(after) > len(before) > 5
    parts = [each.id for parts in world.balance.parts.values() for each in parts]
    assert sorted(parts) == sorted(each.id for each in world.collections["balance_transaction"])


def test_manual_payouts_are_not_attributable() -> None:
    """Of a payout that Stripe did not make only its own transaction is known."""
    world = World()
    world.balance.automatic = False
    world.add(SCENARIOS)
    world.settle(NOW)
    assert {len(parts) for parts in world.balance.parts.values()} == {1}

"""The fake of Stripe's API: Checkout Sessions, refunds and disputes change its world, and it delivers their events."""

import asyncio
import itertools
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import stripe
from aiohttp import web
from aiohttp.test_utils import TestServer

from daemon.simulator.fake_stripe.delivery import Delivery
from daemon.simulator.fake_stripe.fake import FakeStripe
from daemon.simulator.fake_stripe.server import serving
from daemon.simulator.fake_stripe.webhook_endpoints import WebhookEndpoint
from daemon.simulator.sender import Retry
from daemon.simulator.stripe_objects import Json
from tests.simulator.oracle import expect
from tests.support.model_ledger import as_row, derived
from tests.support.process import Process
from tests.support.stripe_client import StripeClient

NOW = 1_800_000_000
SESSION = {
    "mode": "payment",
    "submit_type": "donate",
    "client_reference_id": "story-1",
    "metadata[ticketId]": "story-1",
    "payment_intent_data[metadata][ticketId]": "story-1",
    "line_items[0][price_data][currency]": "eur",
    "line_items[0][price_data][unit_amount]": "2500",
    "line_items[0][price_data][product_data][name]": "A well",
    "line_items[0][quantity]": "1",
    "custom_fields[0][key]": "showName",
    "custom_fields[0][type]": "dropdown",
    "custom_fields[0][label][type]": "custom",
    "custom_fields[0][label][custom]": "Show my last name?",
    "custom_fields[0][optional]": "true",
    "custom_fields[0][dropdown][options][0][label]": "No",
    "custom_fields[0][dropdown][options][0][value]": "no",
    "custom_fields[0][dropdown][options][1][label]": "Yes",
    "custom_fields[0][dropdown][options][1][value]": "yes",
    "custom_fields[0][dropdown][default_value]": "no",
    "success_url": "https://give.example.org/tickets/story-1?session={CHECKOUT_SESSION_ID}",
    "cancel_url": "https://give.example.org/tickets/story-1",
}
MONTHLY = {name: value for name, value in SESSION.items() if name != "submit_type" and "intent_data" not in name} | {
    "mode": "subscription",
    "line_items[0][price_data][recurring][interval]": "month",
    "subscription_data[metadata][ticketId]": "story-1",
}


@pytest.fixture
async def client() -> AsyncIterator[StripeClient]:
    """A client of an empty fake, whose clock goes on by a minute with each look at it."""
    seconds = itertools.count(NOW, 60)
    async with (
        serving(FakeStripe(clock=lambda: next(seconds), retry=Retry(delay_s=0))) as fake,
        aiohttp.ClientSession() as http,
    ):
        yield StripeClient(fake, http)


async def created(client: StripeClient, params: Mapping[str, str] = SESSION) -> Json:
    """A new session."""
    reply = await client.ask("checkout/sessions", params)
    assert reply.status == 200, reply.body
    return reply.body


def types(client: StripeClient) -> list[str]:
    """The types of all events so far, sorted."""
    return sorted(event.type for event in client.fake.world.collections["event"])


# --- Checkout


async def test_a_payment(client: StripeClient) -> None:
    """A session becomes a PaymentIntent and a charge with the details and the metadata, and keeps the answer."""
    session = await created(client)
    assert (session["status"], session["amount_total"], session["currency"]) == ("open", 2500, "eur")
    assert session["url"].startswith(client.fake.base_url)
    assert types(client) == []
    paid = await client.control("pay", session=session["id"], name="Ann Blank", answers={"showName": "yes"})
    assert (paid["status"], paid["payment_status"], paid["url"]) == ("complete", "paid", None)
    assert paid["custom_fields"][0]["dropdown"]["value"] == "yes"
    intent = (await client.ask(f"payment_intents/{paid['payment_intent']}?expand[]=latest_charge")).body
    assert intent["metadata"] == intent["latest_charge"]["metadata"] == {"ticketId": "story-1"}
    assert intent["latest_charge"]["billing_details"]["name"] == "Ann Blank"
    assert types(client) == [
        "charge.succeeded",
        "charge.updated",
        "checkout.session.completed",
        "payment_intent.created",
        "payment_intent.succeeded",
    ]


async def test_a_monthly_donation(client: StripeClient) -> None:
    """A session becomes a subscription with its metadata, whose months are invoices with a PaymentIntent each."""
    session = await created(client, MONTHLY)
    paid = await client.control("pay", session=session["id"])
    await client.control("bill", subscription=paid["subscription"])
    await client.control("bill", subscription=paid["subscription"], declined=True)
    invoices = (await client.ask(f"invoices?subscription={paid['subscription']}")).body["data"]
    assert [invoice["status"] for invoice in invoices] == ["open", "paid", "paid"]
    assert {each["parent"]["subscription_details"]["metadata"]["ticketId"] for each in invoices} == {"story-1"}
    intents = (await client.ask("payment_intents")).body["data"]
    references = [intent["payment_details"]["order_reference"] for intent in intents]
    assert references == [invoice["id"] for invoice in invoices]
    payments = (await client.ask(f"invoice_payments?invoice={invoices[1]['id']}")).body["data"]
    assert [each["payment"]["payment_intent"] for each in payments] == [intents[1]["id"]]
    ended = await client.ask(f"subscriptions/{paid['subscription']}", method="DELETE")
    assert ended.body["status"] == "canceled"
    assert Counter(types(client))["invoice.paid"] == 2


async def test_declined_pending_and_expired(client: StripeClient) -> None:
    """A declined session stays open; a bank debit is paid when it arrives; an expired session cannot be paid."""
    first, second, third = [(await created(client))["id"] for _ in range(3)]
    assert (await client.control("pay", session=first, declined=True))["status"] == "open"
    assert (await client.control("pay", session=first))["payment_status"] == "paid"
    waiting = await client.control("pay", session=second, method="us_bank_account")
    assert waiting["payment_status"] == "unpaid"
    intent = (await client.ask(f"payment_intents/{waiting['payment_intent']}")).body
    assert intent["status"] == "processing"
    await client.control("end_debit", charge=intent["latest_charge"])
    assert (await client.ask(f"checkout/sessions/{second}")).body["payment_status"] == "paid"
    expired = await client.ask(f"checkout/sessions/{third}/expire", {})
    assert (expired.body["status"], expired.body["url"]) == ("expired", None)
    with pytest.raises(AssertionError, match="expired"):
        await client.control("pay", session=third)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"mode": ""}, "mode"),
        ({"success_url": ""}, "success_url"),
        ({"success_url": "javascript:alert(1)"}, "success_url"),
        ({"colour": "red"}, "colour"),
        ({"subscription_data[metadata][ticketId]": "x"}, "subscription_data"),
        ({"payment_intent_data[colour]": "red"}, "payment_intent_data[colour]"),
        ({"line_items[0][price_data][recurring][interval]": "month"}, "line_items[0]"),
        ({"line_items[0][price_data][unit_amount]": "25.00"}, "unit_amount"),
        ({"custom_fields[0][key]": "show_name"}, "custom_fields[0][key]"),
        ({"custom_fields[0][label][custom]": "x" * 51}, "custom_fields[0][label]"),
    ],
)
async def test_sessions_that_stripe_rejects(client: StripeClient, change: Mapping[str, str], param: str) -> None:
    """The error names the parameter, and nothing is created."""
    reply = await client.ask("checkout/sessions", {**SESSION, **change})
    assert (reply.status, reply.error["param"]) == (400, param)
    assert (await client.ask("checkout/sessions")).ids == []


@pytest.mark.parametrize(
    ("currency", "amount", "code"),
    [
        ("usd", 49, "amount_too_small"),
        ("usd", 100_000_000, "amount_too_large"),
        ("isk", 150, "parameter_invalid_integer"),
        ("kwd", 1005, "parameter_invalid_integer"),
    ],
)
async def test_amounts_that_stripe_rejects(client: StripeClient, currency: str, amount: int, code: str) -> None:
    """Too little, too much, and finer than Stripe charges in the currency."""
    price = {"line_items[0][price_data][currency]": currency, "line_items[0][price_data][unit_amount]": str(amount)}
    assert (await client.ask("checkout/sessions", SESSION | price)).error["code"] == code


async def test_the_page_of_a_session(client: StripeClient) -> None:
    """It has a form with the custom fields; what the donor chooses happens, and the browser returns to the site."""
    session = await created(client, {**SESSION, "custom_fields[0][label][custom]": "<Show>"})
    async with client.http.get(session["url"]) as response:
        assert "&lt;Show&gt;" in await response.text()
    async with client.http.post(session["url"], data={"outcome": "declined"}, allow_redirects=False) as response:
        assert response.headers["Location"] == f"/pay/{session['id']}"
    answer = {"outcome": "paid", "name": "Ann", "answer showName": "yes"}
    async with client.http.post(session["url"], data=answer, allow_redirects=False) as response:
        assert response.headers["Location"].endswith(f"?session={session['id']}")
    assert (await client.ask(f"checkout/sessions/{session['id']}")).body["customer_details"]["name"] == "Ann"
    async with client.http.get(session["url"]) as response:
        assert response.status == 410


# --- Refunds, disputes, and what the ledger derives of all this


async def test_refunds(client: StripeClient) -> None:
    """A part is sent back, then the rest, and no more; the same idempotency key sends nothing twice."""
    paid = await client.control("pay", session=(await created(client))["id"])
    refund = {"payment_intent": paid["payment_intent"], "amount": "1000"}
    first = await client.ask("refunds", refund, Idempotency_Key="a")
    again = await client.ask("refunds", refund, Idempotency_Key="a")
    assert first.body == again.body
    assert (await client.ask("refunds", refund | {"amount": "1501"})).error["param"] == "amount"
    rest = await client.ask("refunds", {"charge": first.body["charge"]})
    assert rest.body["amount"] == 1500
    assert (await client.ask("refunds", refund)).error["code"] == "charge_already_refunded"
    assert (await client.ask(f"charges/{first.body['charge']}")).body["refunded"]


async def test_the_ledger_shows_the_state_of_the_world(client: StripeClient) -> None:
    """After steps of every kind the events give what the oracle expects of the objects that the API serves."""
    sessions = [(await created(client))["id"] for _ in range(4)] + [(await created(client, MONTHLY))["id"]]
    for session in sessions[1:]:
        await client.control("pay", session=session, name=None)
    charges = (await client.ask("charges")).ids
    await client.ask("refunds", {"charge": charges[0], "amount": "700"})
    disputed = await client.control("dispute", charge=charges[1])
    won = await client.control("dispute", charge=charges[2], amount=300)
    await client.control("decide", dispute=won["id"], status="won")
    warning = await client.control("warn", charge=charges[1])
    await client.ask(f"checkout/sessions/{sessions[0]}/expire", {})
    intent = await client.ask("payment_intents", {"amount": "900", "currency": "usd", "metadata[ticketId]": "story-1"})
    await client.ask(f"payment_intents/{intent.body['id']}/cancel", {})
    world = client.fake.world
    events = [event.shown for event in world.collections["event"]]
    assert derived(events) == sorted(as_row(end) for state in world.states if (end := expect(state)))
    assert (await client.ask(f"disputes/{disputed['id']}")).body["status"] == "needs_response"
    assert (await client.ask("radar/early_fraud_warnings")).ids == [warning["id"]]


# --- Delivery


async def test_events_are_delivered_signed_until_they_are_accepted(client: StripeClient) -> None:
    """Every endpoint gets the events that it is subscribed to, signed with its secret, again after an error; events
    that are lost are not delivered, and are in the list.
    """
    received: list[tuple[str, str]] = []
    secrets: dict[str, str] = {}

    async def receive(request: web.Request) -> web.Response:
        body, name = await request.read(), request.match_info["name"]
        event = stripe.Webhook.construct_event(
            body, request.headers["Stripe-Signature"], secrets[name], tolerance=10**9
        )
        received.append((name, event.type))
        return web.Response(status=503 if len(received) == 1 else 200)

    app = web.Application()
    app.router.add_post("/{name}", receive)
    client.fake.failures.lost_events.add("charge.updated")
    async with TestServer(app) as server:
        for name, events in (("all", "*"), ("some", "charge.succeeded")):
            params = {"url": str(server.make_url(f"/{name}")), "enabled_events[]": events}
            secrets[name] = (await client.ask("webhook_endpoints", params)).body["secret"]
        await client.control("pay", session=(await created(client))["id"])
        await client.fake.delivery.finish()
    wanted = Counter(("all", each) for each in types(client) if each != "charge.updated")
    wanted["some", "charge.succeeded"] += 1
    wanted[received[0]] += 1
    assert Counter(received) == wanted
    assert "charge.updated" in types(client)


@pytest.mark.parametrize(
    ("change", "receives"),
    [
        ({}, True),
        ({"status": "disabled"}, False),
        ({"enabled_events": ["charge.refunded"]}, False),
        ({"is_connect": True}, False),
    ],
)
def test_who_receives_an_event(change: dict[str, Any], receives: bool) -> None:
    """Endpoints that are enabled, for its type, and for the platform or for connected accounts."""
    endpoint = WebhookEndpoint("we_1", NOW, "http://127.0.0.1:1/", ["charge.failed"], None, False, "whsec_x")
    event = {"id": "evt_1", "type": "charge.failed"}
    changed = replace(endpoint, **change)
    assert changed.receives(event) is receives
    assert changed.receives(event | {"account": "acct_1"}) is (change == {"is_connect": True})


async def test_delivery_is_given_up_after_its_attempts() -> None:
    """The waits grow as Stripe's do, and end."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await asyncio.sleep(0)

    delivery = Delivery(retry=Retry(attempts=4, delay_s=1), sleep=sleep)
    endpoint = WebhookEndpoint("we_1", NOW, "http://127.0.0.1:1/", ["*"], None, False, "whsec_x")
    async with delivery.running():
        delivery.start([{"id": "evt_1", "type": "charge.failed"}], [endpoint])
        await delivery.finish()
    assert waits == [1, 2, 4]


# --- The program


def test_the_program_serves_until_ctrl_c(tmp_path: Path) -> None:
    """It prints its address, serves the payments that it was started with, and ends with status 130."""
    log = tmp_path / "fake.log"
    command = [sys.executable, "-m", "daemon.simulator.fake_stripe", "--port", "0", "--payments", "20"]
    with Process(command, log, {"STRIPE_API_KEY": "sk_test_own"}, stop=signal.SIGINT) as process:
        url = process.wait_for("http://127.0.0.1:").strip()
        listing = stripe.StripeClient("sk_test_own", base_addresses={"api": url}).v1.charges.list()
        assert len(listing.data) == 10
        assert process.end() == 130

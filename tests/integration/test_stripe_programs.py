"""The fake of Stripe's API, judged by others: Stripe's command line and Node.js library use it as Stripe, its objects
fit Stripe's Python library, and where another fake knows the same calls, both reply alike.
"""

import base64
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Union, get_args, get_origin
from urllib.parse import urlencode

import pytest
import stripe

from daemon.simulator.sender import encode, sign
from tests.support.process import Process
from tests.support.stripe_programs import installed, running_localstripe

KEY = "sk_test_fake"
SECRET = "whsec_" + "node" * 8


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a fake with sixty payments, in a process of its own."""
    log = tmp_path_factory.mktemp("fake") / "log"
    command = [sys.executable, "-m", "daemon.simulator.fake_stripe", "--port", "0", "--payments", "60"]
    with Process(command, log) as process:
        yield process.wait_for("http://127.0.0.1:").strip()


@pytest.fixture(scope="module")
def npm() -> Path:
    """Where Stripe's programs from npm are installed."""
    return installed("npm")


def ask(base: str, path: str, form: Mapping[str, str] | None = None, version: str = "2026-10-28.endive") -> Any:
    """What a server replies to a GET, or to a POST of a form."""
    data = None if form is None else urlencode(form).encode()
    authorization = f"Basic {base64.b64encode(f'{KEY}:'.encode()).decode()}"
    headers = {"Authorization": authorization, "Stripe-Version": version}
    request = urllib.request.Request(f"{base}/v1/{path}", data, headers)  # noqa: S310 - ours
    with urllib.request.urlopen(request, timeout=60) as reply:  # noqa: S310 - ours
        return json.load(reply)


# --- Stripe's own programs


def test_stripes_command_line(fake: str, npm: Path, tmp_path: Path) -> None:
    """`stripe trigger` makes what it says, and `stripe … list` shows it."""
    [program] = npm.glob("node_modules/@stripe/cli-*/bin/stripe")

    def run(*words: str) -> str:
        environ = {"HOME": str(tmp_path), "STRIPE_API_KEY": KEY, "STRIPE_CLI_TELEMETRY_OPTOUT": "1"}
        command = [str(program), "--api-base", fake, *words]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    for event in ("charge.refunded", "charge.dispute.created"):
        assert "Trigger succeeded" in run("trigger", event)
        newest = {each["type"] for each in json.loads(run("events", "list", "--limit", "30"))["data"]}
        assert {event, "payment_intent.succeeded", "charge.succeeded"} <= newest
    [dispute] = json.loads(run("disputes", "list", "--limit", "1"))["data"]
    assert json.loads(run("charges", "retrieve", dispute["charge"]))["disputed"]


def test_stripes_node_library(fake: str, npm: Path) -> None:
    """It pages through everything, reads the errors as Stripe's, and accepts the signature of an event."""
    charges = [
        charge.id
        for charge in stripe.StripeClient(KEY, base_addresses={"api": fake}).v1.charges.list().auto_paging_iter()
    ]
    event = ask(fake, "events?limit=1")["data"][0]
    body = encode(event)
    signature = sign(body, SECRET, int(event["created"]))
    command = ["node", "client.mjs", fake, KEY, body.decode(), signature, SECRET]
    done = subprocess.run(command, cwd=npm, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "charges": charges,
        "session": True,
        "refunded": [400, "refund"],
        "errors": {
            "unknown": ["StripeInvalidRequestError", 404, "resource_missing"],
            "parameter": ["StripeInvalidRequestError", 400, "parameter_unknown"],
            "idempotency": ["StripeIdempotencyError", 400, None],
            "key": ["StripeAuthenticationError", 401, None],
            "declined": ["StripeCardError", 402, "card_declined"],
        },
        "event": event["id"],
    }


# --- Stripe's Python library

UNTYPED = {"destination", "dispute", "order"}  # of charges; Stripe sends them, and the library does not name them
CLASSES: Mapping[str, Any] = {
    "account": stripe.Account,
    "balance_transactions": stripe.BalanceTransaction,
    "charges": stripe.Charge,
    "checkout/sessions": stripe.checkout.Session,
    "customers": stripe.Customer,
    "disputes": stripe.Dispute,
    "events": stripe.Event,
    "invoice_payments": stripe.InvoicePayment,
    "invoices": stripe.Invoice,
    "payment_intents": stripe.PaymentIntent,
    "payouts": stripe.Payout,
    "refunds": stripe.Refund,
    "subscriptions": stripe.Subscription,
}


def fits(value: object, annotation: Any) -> bool:
    """Whether a JSON value can have the type that the library names for it."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Union:
        return any(fits(value, each) for each in inner)
    if annotation in {int, str, bool, float}:
        return type(value) is annotation or (annotation is float and type(value) is int)
    if annotation is type(None):
        return value is None
    if origin is list:
        return isinstance(value, list) and all(fits(each, inner[0]) for each in value)
    if all(isinstance(each, str | bool) for each in inner) and inner:  # Literal
        return value in inner or isinstance(value, str)
    return isinstance(value, dict)


@pytest.mark.parametrize("path", CLASSES)
def test_objects_fit_stripes_python_library(fake: str, path: str) -> None:
    """Every field is one that the library knows, and has its type; PaymentIntents and charges have them all."""
    fields: dict[str, Any] = {}
    for each in reversed(CLASSES[path].__mro__):
        fields |= {name: type_ for name, type_ in vars(each).get("__annotations__", {}).items() if name.islower()}
    reply = ask(fake, f"{path}?limit=100" if path != "account" else path)
    for shown in reply.get("data", [reply]) if path != "account" else [reply]:
        assert {name for name in shown if name not in fields} <= UNTYPED
        wrong = {name: value for name, value in shown.items() if name in fields and not fits(value, fields[name])}
        assert wrong == {}


# --- Another fake

OLD = "2020-08-27"  # localstripe has the shapes of about that time
# Fields that Stripe does not have in that version, or a charge's refunds, which only localstripe puts into it unasked.
ONLY_THEIRS = {"date", "latest_charge", "livemode", "refunds", "total_count"}


@pytest.fixture(scope="module")
def localstripe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of localstripe."""
    with running_localstripe(installed("localstripe"), tmp_path_factory.mktemp("localstripe") / "log") as address:
        yield address


def ask_old(base: str, path: str, form: Mapping[str, str] | None = None) -> Any:
    return ask(base, path, form, OLD)


def paid_and_refunded(base: str, method: str) -> dict[str, Any]:
    """What a server replies to the calls of a payment that is refunded in part."""
    form = {"amount": "2500", "currency": "usd", "confirm": "true", "payment_method": method}
    intent = ask_old(base, "payment_intents", form | {"metadata[ticketId]": "story-1"})
    charge = intent["charges"]["data"][0]["id"]
    refund = ask_old(base, "refunds", {"charge": charge, "amount": "700"})
    return {
        "created": intent,
        "intent": ask_old(base, f"payment_intents/{intent['id']}"),
        "charge": ask_old(base, f"charges/{charge}"),
        "refund": refund,
        "refund again": ask_old(base, f"refunds/{refund['id']}"),
        "refunds": ask_old(base, f"refunds?charge={charge}"),
        "transaction": ask_old(base, f"balance_transactions/{refund['balance_transaction']}"),
        "customers": ask_old(base, "customers"),
    }


def differences(ours: Any, theirs: Any, place: str) -> Iterator[str]:
    """Where the types of two JSON values differ, and which fields the fake lacks; null has any type."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name, value in theirs.items():
            if name not in ours:
                yield f"{place}.{name} is missing"
            else:
                yield from differences(ours[name], value, f"{place}.{name}")
    elif isinstance(ours, list) and isinstance(theirs, list):
        for one, other in zip(ours, theirs, strict=False):
            yield from differences(one, other, f"{place}[]")
    elif None not in (ours, theirs) and type(ours) is not type(theirs):
        yield f"{place} is {type(ours).__name__} and not {type(theirs).__name__}"


def test_shapes_agree_with_localstripe(fake: str, localstripe: str) -> None:
    """To the calls that both know both reply with the same fields and types, but for a few."""
    card = {"type": "card", "card[number]": "4242424242424242", "card[exp_month]": "12", "card[exp_year]": "2034"}
    method = ask(localstripe, "payment_methods", card | {"card[cvc]": "123"})["id"]
    theirs, ours = paid_and_refunded(localstripe, method), paid_and_refunded(fake, "pm_card_visa")
    found = [each for name in ours for each in differences(ours[name], theirs[name], name)]
    assert [each for each in found if each.split(".")[-1] not in {f"{name} is missing" for name in ONLY_THEIRS}] == []
    assert len(theirs["charge"]) > 20
    assert (ours["created"]["amount_received"], ours["charge"]["amount_refunded"]) == (2500, 700)

"""Checkout Sessions: their creation as handlers of the server, and what donors do with them.

Source: https://docs.stripe.com/api/checkout/sessions/create
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from daemon.simulator import monthly_payment
from daemon.simulator.fake_stripe.parameters import StripeError, check_all_known, take_integer
from daemon.simulator.fake_stripe.resources import RESOURCES, Request, Route, expanded, find
from daemon.simulator.payment import Payment
from daemon.simulator.state import Inputs
from daemon.simulator.stripe_invoices import Subscription
from daemon.simulator.stripe_objects import DAY_S, Charge, Donor, Json
from daemon.simulator.stripe_sessions import Session
from daemon.simulator.world import World

RESOURCE = RESOURCES["checkout/sessions"]
MOST_FIELDS, MOST_OPTIONS, LABEL_LENGTH = 3, 200, 50
FIELD_KEY = re.compile(r"[A-Za-z0-9]{1,200}", re.ASCII)
# What Stripe charges at least and at most (https://docs.stripe.com/currencies), in minor units, for some currencies.
SMALLEST = {"usd": 50, "eur": 50, "cad": 50, "gbp": 30, "jpy": 50, "mxn": 1000, "sek": 300}
LARGEST = 99_999_999
MULTIPLES = {"isk": 100, "ugx": 100, **dict.fromkeys(("bhd", "jod", "kwd", "omr", "tnd"), 10)}
# Parameters that the session shows as they were given, or that change nothing here.
SHOWN = ("cancel_url", "customer_email", "locale", "submit_type", "success_url")
IGNORED = (
    *("adaptive_pricing", "allow_promotion_codes", "billing_address_collection", "custom_text", "customer_creation"),
    *("invoice_creation", "payment_method_options", "payment_method_types", "phone_number_collection"),
)


def create(request: Request) -> Json:
    """Makes a session for one payment or for a monthly one. Raises StripeError for parameters that are wrong."""
    params, world = request.params, request.world
    mode = _required(params, "mode")
    if mode not in {"payment", "subscription"}:
        raise StripeError(400, "Invalid mode: must be one of payment or subscription", param="mode")
    inherited = "payment_intent_data" if mode == "payment" else "subscription_data"
    data = params.pop(inherited, {})
    amount, currency = _price(params.pop("line_items", None), is_monthly=mode == "subscription")
    metadata, reference = params.pop("metadata", {}), params.pop("client_reference_id", None)
    expires_at = take_integer(params, "expires_at", request.now + DAY_S)
    shown = _shown(params, mode) | {"custom_fields": _custom_fields(params.pop("custom_fields", []))}
    paths = params.pop("expand", [])
    for name in IGNORED:
        params.pop(name, None)
    check_all_known(params)
    inputs = Inputs(
        receipt_email=data.pop("receipt_email", None),
        session_metadata=metadata,
        reference=reference,
        intent_metadata=data.pop("metadata", {}),
    )
    inputs.charge_metadata = inputs.intent_metadata if mode == "payment" else {}
    data.pop("description", None)
    check_all_known({f"{inherited}[{name}]": value for name, value in data.items()})
    payment = world.begin(inputs, amount=amount, currency=currency, at=request.now)
    with world.step(payment, request.now):
        session = payment.open_session(mode)
        page = f"{request.base_url}/pay/{session.id}"
        session.requested = {"submit_type": None, **shown, "expires_at": expires_at, "url": page}
    return expanded(request, session.render(request.api), paths)


def expire(request: Request, id_: str) -> Json:
    """Ends an open session. Raises StripeError for another one."""
    session: Session = find(request, RESOURCE, id_)
    if session.status != "open":
        message = f'Only Checkout Sessions with a status in ["open"] can be expired. This has {session.status}.'
        raise StripeError(400, message)
    check_all_known(request.params)
    payment = request.world.resume(id_)
    with request.world.step(payment, request.now):
        session.requested["url"] = None
        payment.expire_session(session)
    return session.render(request.api)


def _required(params: Json, name: str) -> Any:
    if not params.get(name):
        raise StripeError(400, f"Missing required param: {name}.", code="parameter_missing", param=name)
    return params.pop(name)


def _shown(params: Json, mode: str) -> Json:
    """The parameters that the session shows, checked."""
    success = _required(params, "success_url")
    for name, url in (("success_url", success), ("cancel_url", params.get("cancel_url"))):
        if url is not None and urlsplit(url).scheme not in {"http", "https"}:
            raise StripeError(400, f"Not a valid URL: {url}", code="url_invalid", param=name)
    if mode != "payment" and "submit_type" in params:
        raise StripeError(400, "You can only set `submit_type` in `payment` mode.", param="submit_type")
    return {"success_url": success} | {name: params.pop(name) for name in SHOWN if name in params}


def _price(items: Any, *, is_monthly: bool) -> tuple[int, str]:
    """The sum of the items in minor units, and its currency. Raises StripeError for what Stripe does not charge."""
    if not isinstance(items, list) or not items:
        raise StripeError(400, "Missing required param: line_items.", code="parameter_missing", param="line_items")
    amount, currencies = 0, set()
    for number, item in enumerate(items):
        param = f"line_items[{number}]"
        price = item.get("price_data") or {}
        recurring = price.get("recurring", {}).get("interval")
        if (recurring == "month") != is_monthly:
            wanted = "recurring prices" if is_monthly else "one-time prices"
            raise StripeError(400, f"You specified a mode that takes {wanted} only.", param=param)
        if not price.get("product_data", {}).get("name"):
            raise StripeError(
                400, "Missing required param: name.", code="parameter_missing", param=f"{param}[price_data]"
            )
        amount += take_integer(price, "unit_amount") * take_integer(item, "quantity", 1)
        currencies.add(price.get("currency"))
    [currency, *others] = sorted(map(str, currencies))
    if others or not re.fullmatch("[a-z]{3}", currency):
        raise StripeError(400, f"Invalid currency: {currency}", param="line_items[0][price_data][currency]")
    _check_amount(amount, currency)
    return amount, currency


def _check_amount(amount: int, currency: str) -> None:
    if amount < SMALLEST.get(currency, 1):
        raise StripeError(400, "The Checkout Session's total amount is too small.", code="amount_too_small")
    if amount > LARGEST:
        raise StripeError(400, "The Checkout Session's total amount is too large.", code="amount_too_large")
    if amount % MULTIPLES.get(currency, 1):
        message = f"Invalid amount for {currency}: it must be a multiple of {MULTIPLES[currency]}."
        raise StripeError(400, message, code="parameter_invalid_integer")


def _custom_fields(fields: Any) -> list[Json]:
    """The questions as the session shows them, without an answer. Raises StripeError for any that Stripe rejects."""
    if not isinstance(fields, list) or len(fields) > MOST_FIELDS:
        raise StripeError(400, f"There can be at most {MOST_FIELDS} custom fields.", param="custom_fields")
    return [_custom_field(field, f"custom_fields[{number}]") for number, field in enumerate(fields)]


def _custom_field(field: Json, param: str) -> Json:
    kind, label = field.get("type"), field.get("label", {})
    if not FIELD_KEY.fullmatch(field.get("key", "")):
        raise StripeError(400, "A key must be alphanumeric.", param=f"{param}[key]")
    if label.get("type") != "custom" or not 1 <= len(label.get("custom", "")) <= LABEL_LENGTH:
        raise StripeError(400, f"A label has 1 to {LABEL_LENGTH} characters.", param=f"{param}[label]")
    if kind not in {"dropdown", "numeric", "text"}:
        raise StripeError(400, "Invalid type: must be one of dropdown, numeric, or text", param=f"{param}[type]")
    given = field.get(kind, {})
    detail: Json = {"default_value": given.get("default_value"), "value": None}
    if kind == "dropdown":
        options = given.get("options", [])
        if not 1 <= len(options) <= MOST_OPTIONS:
            raise StripeError(400, f"A dropdown has 1 to {MOST_OPTIONS} options.", param=f"{param}[dropdown]")
        detail["options"] = options
    return {
        "key": field["key"],
        "label": {"custom": label["custom"], "type": "custom"},
        "optional": field.get("optional") == "true",
        "type": kind,
        kind: detail,
    }


# --- What a donor does


def pay(
    world: World, id_: str, donor: Donor, now: int, *, answers: Mapping[str, str] = {}, method: str = "card"
) -> Session:
    """The donor completes an open session; a bank debit (`us_bank_account`) is then under way.

    Args:
        answers: the values of the custom fields by their keys; the others keep their default value.

    Raises:
        KeyError: there is no such session.
        ValueError: it is not open.
    """
    payment, session = _open(world, id_)
    payment.inputs.customer = payment.inputs.billing = donor
    for field in session.requested.get("custom_fields", []):
        detail = field[field["type"]]
        detail["value"] = answers.get(field["key"], detail["default_value"])
    if session.mode == "subscription":
        _begin_monthly(world, payment, session, now)
    else:
        _pay_once(world, payment, session, method, now)
    return session


def decline(world: World, id_: str, donor: Donor, now: int) -> Session:
    """The donor's bank refuses a payment; the session stays open. Raises KeyError and ValueError as `pay` does."""
    payment, session = _open(world, id_)
    payment.inputs.billing = donor
    with world.step(payment, now):
        if payment.state.intent is None:
            payment.create_intent()
        payment.decline()
    return session


def bill(world: World, subscription_id: str, now: int, *, declined: bool = False) -> Charge:
    """The next month is billed, and paid unless it is declined. Raises KeyError for an unknown subscription."""
    begun = world.resume(subscription_id)
    subscription: Subscription = world.collections["subscription"][subscription_id]
    inputs = replace(begun.inputs, intent_metadata={}, charge_metadata={})
    month = Payment(begun.endpoint, inputs, amount=begun.amount, currency=begun.currency)
    with world.step(month, now):
        monthly_payment.bill(month, subscription)
        if declined:
            return month.decline()
        charge = month.succeed()
        month.settle(charge)
        return charge


def _open(world: World, id_: str) -> tuple[Payment, Session]:
    session: Session = world.collections[RESOURCE.type][id_]
    if session.status != "open":
        raise ValueError(f"the session is {session.status}")
    return world.resume(id_), session


def _pay_once(world: World, payment: Payment, session: Session, method: str, now: int) -> None:
    with world.step(payment, now):
        if payment.state.intent is None:
            payment.create_intent(method)
        charge = payment.succeed() if method == "card" else payment.start_debit()
        session.requested["url"] = None
        payment.complete_session(session)
        if charge.holds_money:
            payment.settle(charge)


def _begin_monthly(world: World, payment: Payment, session: Session, now: int) -> None:
    """The subscription and its first month; the session is complete when that is paid."""
    with world.step(payment, now):
        subscription = monthly_payment.subscribe(payment.endpoint, session, payment.inputs.intent_metadata)
        payment.state.subscription = subscription
    bill(world, subscription.id, now)
    with world.step(payment, now):
        session.requested["url"] = None
        payment.complete_session(session)


ROUTES = (
    Route("POST", re.compile("checkout/sessions"), "checkout_session_write", create),
    Route("POST", re.compile(r"checkout/sessions/(\w+)/expire"), "checkout_session_write", expire),
)

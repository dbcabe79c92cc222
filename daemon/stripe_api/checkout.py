"""Pure: the Checkout Session at which a donor gives, and what a request for one must contain (SPEC 12).

Parameters of a session: https://docs.stripe.com/api/checkout/sessions/create
"""

import hashlib
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import uuid4

import msgspec
from msgspec import Struct

from daemon.ledger import money
from daemon.ledger.events.sessions import SHOW_NAME_KEY, SHOW_NAME_YES
from daemon.stripe_api.charge_amounts import Fee, check_charge, covering

PATH = "/v1/checkout/sessions"
# One that a client made up by counting would give two donors the same session.
IDEMPOTENCY_KEY = re.compile(r"[!-~]{16,200}", re.ASCII)
# How an amount is written, as a number or as text: Decimal would also read 5_0, spaces and digits of other scripts.
AMOUNT = re.compile(rb'("?)[0-9]+(\.[0-9]+)?\1')
AMOUNT_FORM = "amount: digits from 0 to 9 and at most one point, such as 25.00"


class InvalidCheckout(Exception):
    """A request that cannot become a session; the message names the parameter and says what it must be."""


class CheckoutRequest(Struct, forbid_unknown_fields=True, kw_only=True, rename="camel", frozen=True):
    """What a donor wants to give: the body of a request.

    Attributes:
        amount: in major units; monthly, so much each month.
        currency: None for that of the ticket.
        cover_fees: whether so much more is charged that the charity receives the amount after Stripe's fee.
        show_name: what the donor chose on the ticket page; Checkout asks again and its answer counts.
    """

    amount: Decimal
    currency: str | None = None
    monthly: bool = False
    cover_fees: bool = False
    show_name: bool = False


class _Written(Struct):
    """The amount as the client wrote it."""

    amount: msgspec.Raw


class Target(NamedTuple):
    """What a payment is for, and where the donor returns to.

    Args:
        ticket: its id.
        title: what Checkout shows; the id if it is empty.
        public_url: the address of the pages, without a slash at its end.
    """

    ticket: str
    title: str
    public_url: str


def read_json(body: bytes) -> CheckoutRequest:
    """Reads a request's JSON; no number becomes a binary float. Raises InvalidCheckout."""
    try:
        wanted = msgspec.json.decode(body, type=CheckoutRequest)
        written = msgspec.json.decode(body, type=_Written)
    except msgspec.ValidationError as error:
        raise InvalidCheckout(_without_input(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise InvalidCheckout("the body is not JSON") from None
    if not AMOUNT.fullmatch(written.amount):
        raise InvalidCheckout(AMOUNT_FORM)
    return wanted


def _without_input(message: str) -> str:
    """The library's message without the names of unknown fields, which are the client's own words."""
    if message.startswith("Object contains unknown field"):
        return "unknown parameter (there are: amount, currency, monthly, coverFees, showName)"
    found = re.search(r"`\$\.(\w+)`", message)
    if found is None:
        return "amount: not given" if "required field" in message else "the body is not a JSON object"
    if found[1] == "amount":
        return AMOUNT_FORM
    return f"{found[1]}: {'text such as EUR' if found[1] == 'currency' else 'true or false'}"


def charged_minor(wanted: CheckoutRequest, currency: str, fees: Mapping[str, Fee]) -> int:
    """What is charged, in minor units. Raises InvalidCheckout if Stripe does not, or the fee to cover is not known."""
    if not money.CURRENCY.fullmatch(currency):
        raise InvalidCheckout("currency: three letters, such as EUR")
    try:
        amount = money.minor(wanted.amount, currency)
        check_charge(amount, currency)
        if not wanted.cover_fees:
            return amount
        if currency not in fees:
            raise InvalidCheckout(f"coverFees: the fee of payments in {currency} is not known here")
        check_charge(covered := covering(amount, fees[currency], currency), currency)
    except ValueError as problem:
        raise InvalidCheckout(f"amount: {problem}") from None
    return covered


def session_params(wanted: CheckoutRequest, amount_minor: int, currency: str, target: Target) -> dict[str, Any]:
    """The parameters of the session. The ticket is on the session and on what it creates, because metadata of a session
    is inherited by nothing (https://docs.stripe.com/metadata#copy-metadata-to-another-object)."""
    ticket = {"ticketId": target.ticket}
    price: dict[str, Any] = {
        "currency": currency.lower(),
        "unit_amount": amount_minor,
        "product_data": {"name": target.title or target.ticket},
    }
    page = f"{target.public_url}/tickets/{target.ticket}"
    common = {
        "client_reference_id": target.ticket,
        "metadata": ticket,
        "custom_fields": [consent_field(wanted.show_name)],
        "success_url": f"{page}?checkout=done",
        "cancel_url": page,
    }
    if wanted.monthly:
        price["recurring"] = {"interval": "month"}
        own: dict[str, Any] = {"mode": "subscription", "subscription_data": {"metadata": ticket}}
    else:
        own = {"mode": "payment", "submit_type": "donate", "payment_intent_data": {"metadata": ticket}}
    return {**own, **common, "line_items": [{"price_data": price, "quantity": 1}]}


def consent_field(show_name: bool) -> dict[str, Any]:
    """The question whether the donor's name is shown. The answer that the donor gave on the ticket page is selected,
    so that it is not asked for twice, and can be changed; for a donor who gave none, that is "no"."""
    return {
        "key": SHOW_NAME_KEY,
        "type": "dropdown",
        "label": {"type": "custom", "custom": "Show my last name on the public page?"},  # at most 50 characters
        "optional": True,
        "dropdown": {
            "options": [{"label": "No", "value": "no"}, {"label": "Yes", "value": SHOW_NAME_YES}],
            "default_value": SHOW_NAME_YES if show_name else "no",
        },
    }


def idempotency_key(client_key: str | None, params: Mapping[str, Any]) -> str:
    """The key of the call to Stripe: that of the client with a digest of the parameters, so that Stripe does not
    reject a key that is used again for another payment. Raises InvalidCheckout for a key that may not be unique."""
    if client_key is None:
        return f"checkout-{uuid4().hex}"
    if not IDEMPOTENCY_KEY.fullmatch(client_key):
        raise InvalidCheckout(
            "Idempotency-Key: 16 to 200 visible ASCII characters that no other request has, such as a UUID"
        )
    digest = hashlib.sha256(msgspec.json.encode(params, order="sorted")).hexdigest()[:32]
    return f"{client_key}-{digest}"

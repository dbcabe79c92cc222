"""`donationd stripe check`: whether the key, its permissions and the webhook endpoint are what donationd needs."""

import uuid
from collections.abc import AsyncIterator
from typing import NamedTuple

from daemon.stripe_api.client import StripeApi, StripeRejected
from daemon.stripe_api.webhook_endpoint import PATH, Problem, endpoint_problems, list_endpoints

FAR_S = 4_102_444_800  # in the year 2100: a list of what was created since then is empty, and no donor's data is read
KEYS = "in Stripe's dashboard, under Developers, API keys"


class Permission(NamedTuple):
    """A permission of a restricted key, as Stripe's dashboard names it.

    Attributes:
        access: `Read`, or `Write`, which contains it.
        path: of the list that needs it.
        purpose: what donationd needs it for.
    """

    name: str
    access: str
    path: str
    purpose: str


# deploy/docs/stripe-account.md has the same table.
PERMISSIONS = (
    Permission("Webhook Endpoints", "Write", PATH, "`stripe check`, and `stripe setup`, which needs Write"),
    Permission("Events", "Read", "/v1/events", "`replay`"),
    Permission("PaymentIntents", "Read", "/v1/payment_intents", "`reconcile`, thanks and receipts"),
    Permission("Charges and Refunds", "Read", "/v1/charges", "`reconcile`, thanks and receipts, fees and payouts"),
    Permission("Disputes", "Read", "/v1/disputes", "`reconcile`, fees and payouts"),
    Permission("Early Fraud Warnings", "Read", "/v1/radar/early_fraud_warnings", "`reconcile`"),
    Permission("Customers", "Read", "/v1/customers", "thanks and receipts"),
    Permission("Invoices", "Read", "/v1/invoices", "`reconcile`, thanks and receipts"),
    Permission("Subscriptions", "Read", "/v1/subscriptions", "`reconcile`"),
    Permission(
        "Checkout Sessions",
        "Write",
        "/v1/checkout/sessions",
        "checkout, which needs Write; `reconcile`, thanks and receipts",
    ),
    Permission("Balance", "Read", "/v1/balance_transactions", "fees and payouts"),
    Permission("Payouts", "Read", "/v1/payouts", "fees and payouts"),
)
# With this a session cannot be made: Stripe answers 403 without the permission, and 400 with it.
NO_SESSION = {"mode": "none"}


async def account_problems(stripe: StripeApi, url: str | None, *, livemode: bool, has_checkout: bool) -> list[Problem]:
    """What is wrong with the key, its permissions and the webhook endpoint.

    Args:
        url: where this instance's endpoint is reached; None: it is recognized by its mark.
        livemode: the mode of the ledger.
        has_checkout: whether donors begin payments here, so that the key must be able to make Checkout Sessions.

    Raises:
        StripeUnavailable, StripeRejected: nothing could be found out.
    """
    try:
        found = endpoint_problems(await list_endpoints(stripe), url, livemode=livemode)
    except StripeRejected as rejection:
        if rejection.status == 401:
            return [Problem("Stripe does not accept STRIPE_API_KEY: it is wrong, or was revoked", f"make a key {KEYS}")]
        if rejection.status != 403:
            raise
        found = []
    return found + [
        Problem(f"the key lacks the permission {lacking.name}: {lacking.access}", f"add it to the key {KEYS}")
        async for lacking in _lacking(stripe, has_checkout=has_checkout)
    ]


async def _lacking(stripe: StripeApi, *, has_checkout: bool) -> AsyncIterator[Permission]:
    """The permissions that the key does not have. That of writing endpoints cannot be found out without writing."""
    for permission in PERMISSIONS:
        since = {} if permission.path == PATH else {"created": {"gte": FAR_S}}
        try:
            await stripe.get(permission.path, {"limit": 1, **since})
            if has_checkout and permission.name == "Checkout Sessions":
                await stripe.post(permission.path, NO_SESSION, idempotency_key=str(uuid.uuid4()))
        except StripeRejected as rejection:
            if rejection.status == 403:
                yield permission
            elif rejection.status != 400:
                raise

"""What a program of Stripe's customers does with payments besides Checkout, as handlers of the server.

Sources: https://docs.stripe.com/api/payment_intents/create, /api/refunds/create and /api/subscriptions/cancel
"""

import re

from daemon.simulator import monthly_payment
from daemon.simulator.fake_stripe.parameters import StripeError, check_all_known, take_integer
from daemon.simulator.fake_stripe.resources import RESOURCES, Request, Route, expanded, find
from daemon.simulator.state import Inputs
from daemon.simulator.stripe_invoices import Subscription
from daemon.simulator.stripe_objects import Charge, Json, PaymentIntent

DECLINED = re.compile(r"pm_card_(?:chargeDeclined\w*|visa_chargeDeclined\w*)|pm_usBankAccount_\w+")
DISPUTED = {"pm_card_createDispute": "needs_response", "pm_card_createDisputeInquiry": "warning_needs_response"}
IGNORED = (
    *("automatic_payment_methods", "confirmation_method", "description", "off_session", "payment_method_types"),
    *("return_url", "shipping"),
)


def create_intent(request: Request) -> Json:
    """Makes a PaymentIntent, and with `confirm` one attempt to pay it. Raises StripeError for wrong parameters."""
    params, world = request.params, request.world
    amount, currency = take_integer(params, "amount"), params.pop("currency", "")
    if amount <= 0 or not re.fullmatch("[a-z]{3}", currency):
        param = "amount" if amount <= 0 else "currency"
        raise StripeError(400, f"Missing required param: {param}.", code="parameter_missing", param=param)
    metadata = params.pop("metadata", {})
    inputs = Inputs(receipt_email=params.pop("receipt_email", None), intent_metadata=metadata, charge_metadata=metadata)
    confirmed = params.pop("confirm", "false") == "true"
    method, is_manual = params.pop("payment_method", None), params.pop("capture_method", "automatic") == "manual"
    paths = params.pop("expand", [])
    for name in IGNORED:
        params.pop(name, None)
    check_all_known(params)
    payment = world.begin(inputs, amount=amount, currency=currency, at=request.now)
    with world.step(payment, request.now):
        intent = payment.create_intent(manual=is_manual)
        if confirmed and DECLINED.fullmatch(method or ""):
            payment.decline()
        elif confirmed and is_manual:
            payment.hold()
        elif confirmed:
            charge = payment.succeed()
            payment.settle(charge)
            if method in DISPUTED:
                payment.dispute(charge, charge.amount, DISPUTED[method])
    if intent.last_payment_error is not None:
        message = "Your card was declined."
        raise StripeError(402, message, type_="card_error", code="card_declined")
    return expanded(request, intent.render(request.api), paths)


def cancel_intent(request: Request, id_: str) -> Json:
    """Cancels a PaymentIntent that is not paid. Raises StripeError for a paid or canceled one."""
    intent: PaymentIntent = find(request, RESOURCES["payment_intents"], id_)
    request.params.pop("cancellation_reason", None)
    check_all_known(request.params)
    if intent.status in {"succeeded", "canceled"}:
        message = f"You cannot cancel this PaymentIntent because it has a status of {intent.status}."
        raise StripeError(400, message, code="payment_intent_unexpected_state")
    payment = request.world.resume(id_)
    with request.world.step(payment, request.now):
        payment.cancel_intent()
    return intent.render(request.api)


def refund(request: Request) -> Json:
    """Sends money of a charge back, all of it unless an amount is named. Raises StripeError for more than there is."""
    params, world = request.params, request.world
    charge = _charge_to_refund(request)
    amount = take_integer(params, "amount", charge.refundable)
    for name in ("reason", "metadata"):
        params.pop(name, None)
    paths = params.pop("expand", [])
    check_all_known(params)
    if not charge.refundable:
        raise StripeError(400, f"Charge {charge.id} has already been refunded.", code="charge_already_refunded")
    if not 0 < amount <= charge.refundable:
        message = f"Refund amount ({amount}) is greater than unrefunded amount on charge ({charge.refundable})"
        raise StripeError(400, message, param="amount")
    payment = world.resume(charge.id)
    with world.step(payment, request.now):
        made = payment.refund(charge, amount)
    return expanded(request, made.render(request.api), paths)


def _charge_to_refund(request: Request) -> Charge:
    """The charge that is named, or the one that paid the PaymentIntent."""
    params = request.params
    charge_id, intent_id = params.pop("charge", None), params.pop("payment_intent", None)
    if charge_id is None and intent_id is None:
        raise StripeError(400, "One of the following params should be provided: payment_intent or charge.")
    if charge_id is None:
        intent: PaymentIntent = find(request, RESOURCES["payment_intents"], intent_id)
        charge_id = next((charge.id for charge in intent.charges if charge.holds_money), None)
        if charge_id is None:
            raise StripeError(400, f"This PaymentIntent ({intent_id}) does not have a successful charge to refund.")
    charge: Charge = find(request, RESOURCES["charges"], charge_id)
    return charge


def cancel_subscription(request: Request, id_: str) -> Json:
    """Ends a subscription. Raises StripeError if this account has no such one, or it has ended."""
    subscription: Subscription = find(request, RESOURCES["subscriptions"], id_)
    check_all_known(request.params)
    if subscription.status == "canceled":
        raise StripeError(404, f"No such subscription: '{id_}'", code="resource_missing", param="id")
    payment = request.world.resume(id_)
    with request.world.step(payment, request.now):
        monthly_payment.end(payment.endpoint, subscription)
    return subscription.render(request.api)


ROUTES = (
    Route("POST", re.compile("payment_intents"), "payment_intent_write", create_intent),
    Route("POST", re.compile(r"payment_intents/(\w+)/cancel"), "payment_intent_write", cancel_intent),
    Route("POST", re.compile("refunds"), "charge_write", refund),
    Route("DELETE", re.compile(r"subscriptions/(\w+)"), "subscription_write", cancel_subscription),
)

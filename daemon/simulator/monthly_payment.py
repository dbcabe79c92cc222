"""The steps of a monthly gift: a subscription, and for each month an invoice with a payment of its own."""

from daemon.simulator.payment import Inputs, Payment
from daemon.simulator.state import Endpoint
from daemon.simulator.stripe_invoices import Invoice, Subscription
from daemon.simulator.stripe_objects import Metadata, Report, Session


def subscribe(endpoint: Endpoint, session: Session, metadata: Metadata) -> Subscription:
    """The donor submits a Checkout Session of mode `subscription`; the first month is billed before it completes."""
    subscription = Subscription(endpoint.new_id("sub_1"), endpoint.at, metadata, session, endpoint.livemode)
    session.subscription = subscription.id
    _report(endpoint, "created", subscription)
    return subscription


def bill(
    endpoint: Endpoint,
    subscription: Subscription | None,
    inputs: Inputs,
    *,
    amount: int,
    currency: str,
    line_metadata: Metadata | None = None,
    method: str = "card",
) -> Payment:
    """The next month's invoice is finalised, or one without a subscription; the payment is still to be attempted.

    `line_metadata` is that of the invoice's line, which is the subscription's unless given.
    """
    metadata = dict(subscription.metadata) if subscription else {}
    payment = Payment(endpoint, inputs, amount=amount, currency=currency)
    payment.state.invoice = Invoice(
        endpoint.new_id("in_1"),
        endpoint.at,
        amount,
        currency,
        subscription,
        metadata,
        metadata if line_metadata is None else line_metadata,
        inputs.customer,
        endpoint.livemode,
    )
    payment.create_intent(method)
    return payment


def retag(endpoint: Endpoint, subscription: Subscription, metadata: Metadata) -> None:
    """The subscription's metadata is edited, at least a second after it was last reported."""
    endpoint.at += 1
    subscription.metadata = metadata
    _report(endpoint, "updated", subscription)


def end(endpoint: Endpoint, subscription: Subscription) -> None:
    """The donor gives no more."""
    subscription.status = "canceled"
    _report(endpoint, "deleted", subscription)


def _report(endpoint: Endpoint, suffix: str, subscription: Subscription) -> None:
    event_type = f"customer.subscription.{suffix}"
    if endpoint.receives(event_type):
        shown = subscription.render(endpoint.api)
        subscription.reports.append(Report(endpoint.at, event_type, shown))
        endpoint.send(event_type, shown)

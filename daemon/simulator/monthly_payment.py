"""The steps of a monthly donation: a subscription, and for each month an invoice with a payment of its own."""

from daemon.simulator.payment import Payment
from daemon.simulator.state import Endpoint
from daemon.simulator.stripe_invoices import Invoice, Subscription
from daemon.simulator.stripe_objects import Metadata, Report
from daemon.simulator.stripe_sessions import Session


def subscribe(endpoint: Endpoint, session: Session, metadata: Metadata) -> Subscription:
    """The donor submits a Checkout Session of mode `subscription`; the first month is billed before it completes."""
    subscription = Subscription(endpoint.new_id("sub_1"), endpoint.at, metadata, session, endpoint.livemode)
    session.subscription = subscription.id
    _report(endpoint, "created", subscription)
    return subscription


def bill(
    payment: Payment,
    subscription: Subscription | None,
    *,
    line_metadata: Metadata | None = None,
    method: str = "card",
) -> None:
    """The invoice that a new payment is to pay is finalised: the next month's, or one without a subscription.

    `line_metadata` is that of the invoice's line, which is the subscription's unless given.
    """
    metadata = dict(subscription.metadata) if subscription else {}
    payment.state.invoice = Invoice(
        payment.endpoint.new_id("in_1"),
        payment.at,
        payment.amount,
        payment.currency,
        subscription,
        metadata,
        metadata if line_metadata is None else line_metadata,
        payment.inputs.customer,
        payment.endpoint.livemode,
    )
    payment.create_intent(method)


def retag(endpoint: Endpoint, subscription: Subscription, metadata: Metadata) -> None:
    """The subscription's metadata is edited, at least a second after it was last reported."""
    endpoint.at += 1
    subscription.metadata = metadata
    _report(endpoint, "updated", subscription)


def end(endpoint: Endpoint, subscription: Subscription) -> None:
    """The donor ends the monthly donation."""
    subscription.status = "canceled"
    _report(endpoint, "deleted", subscription)


def _report(endpoint: Endpoint, suffix: str, subscription: Subscription) -> None:
    event_type = f"customer.subscription.{suffix}"
    if endpoint.receives(event_type):
        shown = subscription.render(endpoint.api)
        subscription.reports.append(Report(endpoint.at, event_type, shown))
        endpoint.send(event_type, shown)

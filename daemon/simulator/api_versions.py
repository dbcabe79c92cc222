"""What the versions of Stripe's API differ in, where donations are concerned."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Api:
    """What an API version makes of the objects: all events of an endpoint have the shapes of its version."""

    version: str
    charges: Literal["listed", "named", "expanded"] = "named"  # in a PaymentIntent: `charges`, or `latest_charge`
    has_amount_captured: bool = True  # charges carry amount_captured
    has_whole_session: bool = True  # sessions carry more than their links: times, amounts, states, the customer
    sends_refunds: bool = True  # as refund.* from the first moment on
    links_intent: bool = True  # refunds and disputes name the PaymentIntent, not only their charge
    # Where an invoice carries the subscription's metadata: its lines, also `subscription_details`, or `parent`. Before
    # `parent` PaymentIntent, charge and invoice name each other; since then `invoice_payment` and `payment_details` do.
    invoices: Literal["lines", "details", "parent"] = "parent"

    @property
    def links_invoice(self) -> bool:
        """Whether PaymentIntent, charge and invoice name each other."""
        return self.invoices != "parent"


APIS = (
    Api(
        "2019-12-03",
        "listed",
        False,
        has_whole_session=False,
        sends_refunds=False,
        links_intent=False,
        invoices="lines",
    ),
    Api("2020-03-02", "listed", has_amount_captured=False, sends_refunds=False, invoices="lines"),
    Api("2020-08-27", "listed", sends_refunds=False, invoices="lines"),
    Api("2022-08-01", "listed", invoices="lines"),
    Api("2022-11-15", "named", sends_refunds=False, invoices="lines"),
    Api("2023-10-16", "expanded", sends_refunds=False, invoices="details"),
    Api("2024-09-30.acacia", invoices="details"),
    Api("2025-03-31.basil", "expanded"),
    Api("2026-10-28.endive"),
)
TODAY = APIS[-1]

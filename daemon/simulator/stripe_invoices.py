"""Subscriptions and invoices, as `stripe_objects` has the objects of one payment."""

from dataclasses import dataclass, field

from daemon.simulator.api_versions import Api
from daemon.simulator.stripe_objects import Donor, Json, Metadata, Reports
from daemon.simulator.stripe_sessions import Session


@dataclass
class Subscription:
    """A monthly donation; each month Stripe makes an invoice and copies the metadata into it."""

    id: str
    created: int
    metadata: Metadata
    session: Session | None
    livemode: bool
    status: str = "active"
    reports: Reports = field(default_factory=list)

    def render(self, _api: Api) -> Json:
        """The object as an event carries it."""
        return {
            "id": self.id,
            "object": "subscription",
            "cancel_at_period_end": False,
            "canceled_at": None,
            "collection_method": "charge_automatically",
            "created": self.created,
            "customer": f"cus_{self.id[4:]}",
            "description": None,
            "items": {"object": "list", "data": [], "has_more": False, "url": "/v1/subscription_items"},
            "latest_invoice": None,
            "livemode": self.livemode,
            "metadata": dict(self.metadata),
            "start_date": self.created,
            "status": self.status,
        }


@dataclass
class Invoice:
    """What one PaymentIntent pays: a month of a subscription, or something once.

    `metadata` is the subscription's when the invoice was finalised. Its line has the same, or `line_metadata` where
    `subscription_details` has precedence.
    """

    id: str
    created: int
    amount: int
    currency: str
    subscription: Subscription | None
    metadata: Metadata
    line_metadata: Metadata
    customer: Donor
    livemode: bool
    payment_intent: str | None = None
    charge: str | None = None
    status: str = "open"
    reports: Reports = field(default_factory=list)
    payment_reports: Reports = field(default_factory=list)  # of the invoice_payment that joins it and its PaymentIntent

    def render(self, api: Api) -> Json:
        """The object as an event carries it."""
        links = self._render_links() if api.links_invoice else {}
        return self._render_own(api) | links | self._render_parent(api)

    def _render_own(self, api: Api) -> Json:
        line = {
            "id": f"il_{self.id[3:]}",
            "object": "line_item",
            "amount": self.amount,
            "currency": self.currency,
            "description": "1 × Monthly donation",
            "livemode": self.livemode,
            "metadata": dict(self.line_metadata if api.invoices == "details" else self.metadata),
        }
        return {
            "id": self.id,
            "object": "invoice",
            "amount_due": self.amount,
            "amount_paid": self.amount if self.status == "paid" else 0,
            "billing_reason": "subscription_cycle" if self.subscription else "manual",
            "created": self.created,
            "currency": self.currency,
            "customer_address": None,
            "customer_email": self.customer.email,
            "customer_name": self.customer.name,
            "customer_phone": self.customer.phone,
            "lines": {"object": "list", "data": [line], "has_more": False, "total_count": 1},
            "livemode": self.livemode,
            "metadata": {},
            "number": f"INV-{self.created}",
            "status": self.status,
            "total": self.amount,
        }

    def _render_links(self) -> Json:
        return {
            "charge": self.charge,
            "paid": self.status == "paid",
            "payment_intent": self.payment_intent,
            "subscription": self.subscription.id if self.subscription else None,
        }

    def _render_parent(self, api: Api) -> Json:
        metadata = dict(self.metadata)
        if api.invoices == "lines":
            return {}
        if api.invoices == "details":
            return {"subscription_details": {"metadata": metadata if self.subscription else None}}
        if self.subscription is None:
            return {"parent": None}
        details = {"metadata": metadata, "subscription": self.subscription.id}
        return {"parent": {"quote_details": None, "subscription_details": details, "type": "subscription_details"}}

    def render_payment(self) -> Json:
        """The invoice_payment, which newer versions send as well."""
        return {
            "id": f"inpay_{self.id[3:]}",
            "object": "invoice_payment",
            "amount_paid": self.amount,
            "amount_requested": self.amount,
            "created": self.created,
            "currency": self.currency,
            "invoice": self.id,
            "is_default": True,
            "livemode": self.livemode,
            "payment": {"payment_intent": self.payment_intent, "type": "payment_intent"},
            "status": "paid",
        }


@dataclass(frozen=True)
class InvoicePayment:
    """The object by which newer versions join a paid invoice and its PaymentIntent."""

    invoice: Invoice

    @property
    def id(self) -> str:
        """Stripe's id."""
        return f"inpay_{self.invoice.id[3:]}"

    @property
    def created(self) -> int:
        """Unix seconds."""
        return self.invoice.created

    def render(self, _api: Api) -> Json:
        """The object as an event carries it."""
        return self.invoice.render_payment()


@dataclass(frozen=True)
class Customer:
    """The donor of a subscription, as the newest invoice knew them."""

    subscription: Subscription
    donor: Donor

    @property
    def id(self) -> str:
        """Stripe's id."""
        return f"cus_{self.subscription.id[4:]}"

    @property
    def created(self) -> int:
        """Unix seconds."""
        return self.subscription.created

    def render(self, _api: Api) -> Json:
        """The object as the API gives it."""
        return {
            "id": self.id,
            "object": "customer",
            "balance": 0,
            "created": self.created,
            "currency": None,
            "default_source": None,
            "delinquent": False,
            "description": None,
            "discount": None,
            "invoice_prefix": self.id[-8:].upper(),
            "livemode": self.subscription.livemode,
            "metadata": {},
            "next_invoice_sequence": 2,
            "preferred_locales": [],
            "shipping": None,
            "tax_exempt": "none",
            "test_clock": None,
        } | self.donor.details()

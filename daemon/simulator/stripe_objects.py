"""Stripe's objects in their present state, and how each API version renders them into events.

Mutable: the steps of a payment change them, and each object keeps the reports of itself that the endpoint received.
What the ledger must show in the end follows from both (`tests/simulator/oracle.py`). Nothing of the simulator imports
the ledger, so that each can be tested against the other.
"""

import re
from dataclasses import dataclass, field
from typing import Any

from daemon.simulator.api_versions import Api
from daemon.simulator.dispute_statuses import CLOSED, INQUIRIES

DAY_S = 86_400
TICKET = re.compile(r"(?![0-9]{9,}\Z)[A-Za-z0-9_-]{1,64}")  # digits only: a phone or card number when longer than 8
CHARGES_LISTED = 10  # the most that a PaymentIntent of the older API carries

Json = dict[str, Any]
Metadata = dict[str, str]


def ticket_of(text: str | None) -> str | None:
    """The text if it can be a ticket's id, else None: it does not count."""
    return text if text is not None and TICKET.fullmatch(text) else None


@dataclass(frozen=True)
class Donor:
    """A person as Stripe knows them; `last_name` is all of the name that the ledger may show."""

    name: str | None
    last_name: str | None
    country: str | None
    email: str | None
    phone: str | None
    street: str | None
    city: str | None
    postal_code: str | None

    def details(self) -> Json:
        """What billing_details and customer_details have in common."""
        address = {
            "city": self.city,
            "country": self.country,
            "line1": self.street,
            "line2": None,
            "postal_code": self.postal_code,
            "state": None,
        }
        return {"address": address, "email": self.email, "name": self.name, "phone": self.phone}


NO_DONOR = Donor(None, None, None, None, None, None, None, None)


@dataclass(frozen=True)
class Report:
    """An object as one delivered event carried it, with the person whose details it carried."""

    at: int
    type: str
    shown: Json
    donor: Donor = NO_DONOR


Reports = list[Report]


@dataclass
class PaymentIntent:
    """One donation as Stripe holds it."""

    id: str
    created: int
    amount: int
    currency: str
    metadata: Metadata
    method: str
    receipt_email: str | None
    livemode: bool
    manual: bool = False  # a charge holds the money until it is captured
    status: str = "requires_payment_method"
    amount_received: int = 0
    charges: list["Charge"] = field(default_factory=list)
    last_payment_error: Json | None = None
    invoice: str | None = None
    reports: Reports = field(default_factory=list)

    def carried(self, api: Api) -> list["Charge"]:
        """The charges that an event about the PaymentIntent carries whole, the newest first."""
        most = {"listed": CHARGES_LISTED, "expanded": 1, "named": 0}[api.charges]
        return self.charges[::-1][:most]

    def render(self, api: Api) -> Json:
        """The object as an event carries it."""
        return self._render_own() | self._render_charges(api) | self._render_invoice(api)

    def _render_charges(self, api: Api) -> Json:
        newest = [charge.render(api) for charge in self.carried(api)]
        match api.charges:
            case "listed":
                url, count = f"/v1/charges?payment_intent={self.id}", len(self.charges)
                more = count > len(newest)
                return {
                    "charges": {"object": "list", "data": newest, "has_more": more, "total_count": count, "url": url}
                }
            case "expanded":
                return {"latest_charge": newest[0] if newest else None}
            case "named":
                return {"latest_charge": self.charges[-1].id if self.charges else None}

    def _render_invoice(self, api: Api) -> Json:
        if api.links_invoice:
            return {"invoice": self.invoice}
        reference = {"customer_reference": None, "order_reference": self.invoice}
        return {"payment_details": reference if self.invoice else None}

    def _render_own(self) -> Json:
        return {
            "id": self.id,
            "object": "payment_intent",
            "amount": self.amount,
            "amount_capturable": self.amount - self.amount_received if self.status == "requires_capture" else 0,
            "amount_details": {"tip": {}},
            "amount_received": self.amount_received,
            "application": None,
            "application_fee_amount": None,
            "automatic_payment_methods": None,
            "canceled_at": None,
            "cancellation_reason": None,
            "capture_method": "manual" if self.manual else "automatic_async",
            "client_secret": f"{self.id}_secret_{self.id[-12:]}",
            "confirmation_method": "automatic",
            "created": self.created,
            "currency": self.currency,
            "customer": None,
            "description": "Donation",
            "excluded_payment_method_types": None,
            "last_payment_error": self.last_payment_error,
            "livemode": self.livemode,
            "metadata": dict(self.metadata),
            "next_action": None,
            "on_behalf_of": None,
            "payment_method": f"pm_{self.id[3:]}",
            "payment_method_configuration_details": None,
            "payment_method_options": {self.method: {"request_three_d_secure": "automatic"}},
            "payment_method_types": [self.method],
            "presentment_details": None,
            "processing": None,
            "receipt_email": self.receipt_email,
            "review": None,
            "setup_future_usage": None,
            "shipping": None,
            "source": None,
            "statement_descriptor": None,
            "statement_descriptor_suffix": None,
            "status": self.status,
            "transfer_data": None,
            "transfer_group": None,
        }


@dataclass
class Charge:
    """One attempt to take the money; the only object with the donor's billing details."""

    id: str
    created: int
    amount: int
    currency: str
    payment_intent: str | None
    metadata: Metadata
    billing: Donor
    method: str
    livemode: bool
    status: str
    captured: bool
    amount_captured: int
    failure_code: str | None = None
    invoice: str | None = None
    source_transfer: str | None = None  # the connected account's side of a destination charge names the transfer
    released: int = 0  # the part of an authorisation that was never captured
    counts_release: bool = True  # whether Stripe counts that part as refunded
    paid_at: int | None = None  # when it first took money
    refunds: list["Refund"] = field(default_factory=list)
    disputes: list["Dispute"] = field(default_factory=list)
    balance_transaction: str | None = None
    refund_failed_at: int | None = None  # when one last failed or was canceled
    reports: Reports = field(default_factory=list)

    @property
    def holds_money(self) -> bool:
        """Whether it took money, and the donor's bank has not called it back."""
        return self.paid_at is not None and self.status == "succeeded"

    @property
    def is_open(self) -> bool:
        """Whether it is authorised, and more of it can be captured."""
        return self.status == "succeeded" and not self.captured and not self.released

    @property
    def sent_back(self) -> int:
        """The sum of the refunds that stand."""
        return sum(refund.amount for refund in self.refunds if refund.stands)

    @property
    def amount_refunded(self) -> int:
        """As Stripe counts: the refunds that stand, and mostly what was released of an authorisation."""
        return self.sent_back + (self.released if self.counts_release else 0)

    @property
    def refundable(self) -> int:
        """What can still be sent back."""
        return self.amount_captured - self.sent_back if self.holds_money else 0

    def render(self, api: Api) -> Json:
        """The object as an event carries it."""
        amount_captured = {"amount_captured": self.amount_captured} if api.has_amount_captured else {}
        invoice = {"invoice": self.invoice} if api.links_invoice else {}
        return self._render_own() | amount_captured | invoice

    def _render_own(self) -> Json:
        return {
            "id": self.id,
            "object": "charge",
            "amount": self.amount,
            "amount_refunded": self.amount_refunded,
            "application": None,
            "application_fee": None,
            "application_fee_amount": None,
            "balance_transaction": self.balance_transaction,
            "billing_details": self.billing.details() | {"tax_id": None},
            "calculated_statement_descriptor": "DONATION",
            "captured": self.captured,
            "created": self.created,
            "currency": self.currency,
            "customer": None,
            "description": "Donation",
            "destination": None,
            "dispute": None,
            "disputed": bool(self.disputes),
            "failure_balance_transaction": None,
            "failure_code": self.failure_code,
            "failure_message": "Your card was declined." if self.failure_code else None,
            "fraud_details": {},
            "livemode": self.livemode,
            "metadata": dict(self.metadata),
            "on_behalf_of": None,
            "order": None,
            "outcome": self._outcome(),
            "paid": self.status == "succeeded",
            "payment_intent": self.payment_intent,
            "payment_method": f"pm_{self.id[3:]}",
            "payment_method_details": {"type": self.method, self.method: self._method_details()},
            "presentment_details": None,
            "radar_options": {},
            "receipt_email": None,
            "receipt_number": None,
            "receipt_url": f"https://pay.stripe.com/receipts/payment/{self.id[3:]}",
            "refunded": 0 < self.amount == self.amount_refunded or 0 < self.amount_captured == self.sent_back,
            "review": None,
            "shipping": None,
            "source": None,
            "source_transfer": self.source_transfer,
            "statement_descriptor": None,
            "statement_descriptor_suffix": None,
            "status": self.status,
            "transfer_data": None,
            "transfer_group": None,
        }

    def _outcome(self) -> Json:
        declined = self.status == "failed"
        return {
            "advice_code": "try_again_later" if declined else None,
            "network_advice_code": None,
            "network_decline_code": "51" if declined else None,
            "network_status": "declined_by_network" if declined else "approved_by_network",
            "reason": self.failure_code,
            "risk_level": "normal",
            "risk_score": 17,
            "seller_message": "The bank declined the payment." if declined else "Payment complete.",
            "type": "issuer_declined" if declined else "authorized",
        }

    def _method_details(self) -> Json:
        if self.method == "us_bank_account":
            return {
                "account_holder_type": "individual",
                "account_type": "checking",
                "bank_name": "STRIPE TEST BANK",
                "fingerprint": self.id[-16:],
                "last4": "6789",
                "mandate": f"mandate_{self.id[3:]}",
                "routing_number": "110000000",
            }
        return {
            "amount_authorized": self.amount,
            "authorization_code": "417235",
            "brand": "visa",
            "checks": {
                "address_line1_check": "pass",
                "address_postal_code_check": "pass",
                "cvc_check": "pass",
            },
            "country": self.billing.country,
            "exp_month": 12,
            "exp_year": 2034,
            "extended_authorization": {"status": "disabled"},
            "fingerprint": self.id[-16:],
            "funding": "credit",
            "incremental_authorization": {"status": "unavailable"},
            "installments": None,
            "last4": "4242",
            "mandate": None,
            "multicapture": {"status": "unavailable"},
            "network": "visa",
            "network_token": {"used": False},
            "network_transaction_id": "976910110049114",
            "overcapture": {"maximum_amount_capturable": self.amount, "status": "unavailable"},
            "regulated_status": "unregulated",
            "three_d_secure": None,
            "wallet": None,
        }


@dataclass
class Refund:
    """Money on its way back to the donor, which may fail after it succeeded. One from a cash balance has no charge."""

    id: str
    created: int
    amount: int
    currency: str
    charge: Charge | None
    status: str
    failure_reason: str | None = None
    reports: Reports = field(default_factory=list)  # of itself, not of its charge's sum

    @property
    def stands(self) -> bool:
        """Whether the charge counts it."""
        return self.status not in {"failed", "canceled"}

    def render(self, api: Api) -> Json:
        """The object as an event carries it: it inherits no metadata, its links are all that ties it."""
        return self._render_own() | _intent_of(self.charge, api)

    def _render_own(self) -> Json:
        return {
            "id": self.id,
            "object": "refund",
            "amount": self.amount,
            "balance_transaction": f"txn_{self.id[3:]}",
            "charge": self.charge.id if self.charge else None,
            "created": self.created,
            "currency": self.currency,
            "destination_details": {
                "card": {
                    "reference_status": "pending",
                    "reference_type": "acquirer_reference_number",
                    "type": "refund",
                },
                "type": "card",
            },
            "failure_reason": self.failure_reason,
            "metadata": {},
            "reason": "requested_by_customer",
            "receipt_number": None,
            "source_transfer_reversal": None,
            "status": self.status,
            "transfer_reversal": None,
        }


@dataclass
class Dispute:
    """A donor's bank asking for the money back; inquiries (`warning_…`) take none."""

    id: str
    created: int
    amount: int
    currency: str
    charge: Charge
    livemode: bool
    status: str
    reports: Reports = field(default_factory=list)

    @property
    def takes_money(self) -> bool:
        """Whether Stripe holds or has taken the disputed amount."""
        return self.status == "lost" or self.status not in CLOSED | INQUIRIES

    @property
    def is_open_or_lost(self) -> bool:
        """Whether the donation counts as disputed; an open inquiry does."""
        return self.takes_money or self.status in INQUIRIES

    def render(self, api: Api) -> Json:
        """The object as an event carries it, with the evidence Stripe fills in by itself."""
        return self._render_own() | _intent_of(self.charge, api)

    def _render_own(self) -> Json:
        donor = self.charge.billing
        evidence = {
            "access_activity_log": None,
            "billing_address": donor.street,
            "customer_email_address": donor.email,
            "customer_name": donor.name,
            "customer_purchase_ip": "203.0.113.77",
            "product_description": None,
            "uncategorized_text": None,
        }
        return {
            "id": self.id,
            "object": "dispute",
            "amount": self.amount,
            "balance_transactions": [],
            "charge": self.charge.id,
            "created": self.created,
            "currency": self.currency,
            "enhanced_eligibility_types": [],
            "evidence": evidence,
            "evidence_details": {
                "due_by": self.created + 9 * DAY_S,
                "enhanced_eligibility": {},
                "has_evidence": self.status == "under_review",
                "past_due": False,
                "submission_count": 0 if self.status.endswith("needs_response") else 1,
            },
            "is_charge_refundable": self.status.startswith("warning_"),
            "livemode": self.livemode,
            "metadata": {},
            "payment_method_details": {
                "card": {"brand": "visa", "case_type": "chargeback", "network_reason_code": "10.4"},
                "type": "card",
            },
            "reason": "fraudulent",
            "status": self.status,
        }


def _intent_of(charge: Charge | None, api: Api) -> Json:
    return {"payment_intent": charge.payment_intent if charge else None} if api.links_intent else {}

"""Stripe's objects as its own books hold them, and how each API version renders them into events.

Mutable: the steps of a payment change them, `expectations` reads from them what the ledger must say in the end.
Nothing of the generator imports the fold, so that the two can be held against each other.
"""

import re
from dataclasses import dataclass, field, replace
from typing import Any, Literal

DAY_S = 86_400
TICKET = re.compile(r"[A-Za-z0-9._-]{1,64}")

Json = dict[str, Any]
Metadata = dict[str, str]


@dataclass(frozen=True)
class Api:
    """What an API version makes of the objects: all events of an endpoint have the shapes of its version."""

    version: str
    charges: Literal["listed", "named", "expanded"] = "named"  # in a PaymentIntent: `charges`, or `latest_charge`
    says_captured: bool = True  # charges carry amount_captured
    says_session: bool = True  # sessions carry more than their links: times, amounts, states, the customer
    tells_refunds: bool = True  # as refund.* from the first moment on
    links_intent: bool = True  # refunds and disputes name the PaymentIntent, not only their charge


APIS = (
    Api("2019-12-03", "listed", says_captured=False, says_session=False, tells_refunds=False, links_intent=False),
    Api("2020-03-02", "listed", says_captured=False, tells_refunds=False),
    Api("2020-08-27", "listed", tells_refunds=False),
    Api("2022-08-01", "listed"),
    Api("2022-11-15", "named", tells_refunds=False),
    Api("2023-10-16", "expanded", tells_refunds=False),
    Api("2025-03-31.basil", "expanded"),
    Api("2026-10-28.endive"),
)
TODAY = APIS[-1]


def ticket_of(text: str | None) -> str | None:
    """The text if it can be a ticket's id (SPEC 3), else None: it does not count."""
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


NOBODY = Donor(None, None, None, None, None, None, None, None)


@dataclass
class PaymentIntent:
    """One donation in Stripe's books."""

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
    was_declined: bool = False
    told: bool = False

    def render(self, api: Api) -> Json:
        """The object as an event carries it. Its newest charge comes first in `charges`."""
        return self._render_own() | self._render_charges(api)

    def _render_charges(self, api: Api) -> Json:
        newest = [charge.render(api) for charge in reversed(self.charges)]
        match api.charges:
            case "listed":
                url = f"/v1/charges?payment_intent={self.id}"
                count = len(newest)
                return {
                    "charges": {"object": "list", "data": newest, "has_more": False, "total_count": count, "url": url}
                }
            case "expanded":
                return {"latest_charge": newest[0] if newest else None}
            case "named":
                return {"latest_charge": self.charges[-1].id if self.charges else None}

    def _render_own(self) -> Json:
        return {
            "id": self.id,
            "object": "payment_intent",
            "amount": self.amount,
            "amount_capturable": self.amount if self.status == "requires_capture" else 0,
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
    released: int = 0  # the part of a hold that was never captured; Stripe counts it as refunded
    paid_at: int | None = None  # when it took money
    refunds: list["Refund"] = field(default_factory=list)
    disputes: list["Dispute"] = field(default_factory=list)
    balance_transaction: str | None = None
    told_at: int | None = None  # when an event last carried it
    told_refunded: int = 0  # what that event said
    told_otherwise: bool = False  # its words were changed, and only `charge.updated` said so

    def __post_init__(self) -> None:
        self.ticket = ticket_of(self.metadata.get("ticketId"))
        self.donor = self.billing

    def retag(self, metadata: Metadata) -> None:
        """New metadata; `ticket` stays the last that counted, for null and empty never count."""
        self.metadata, self.told_otherwise = metadata, True
        self.ticket = ticket_of(metadata.get("ticketId")) or self.ticket

    def rename(self, billing: Donor) -> None:
        """New billing details; `donor` keeps the last of each that counted."""
        self.billing, self.told_otherwise = billing, True
        self.donor = replace(
            self.donor,
            last_name=billing.last_name or self.donor.last_name,
            country=billing.country or self.donor.country,
            email=billing.email if (billing.email or "").strip() else self.donor.email,
        )

    @property
    def took_money(self) -> bool:
        """A pending bank debit is captured before it is paid; a declined card never is."""
        return self.paid_at is not None

    @property
    def amount_refunded(self) -> int:
        """As Stripe counts: what was released of a hold, and the refunds that stand."""
        return self.released + sum(refund.amount for refund in self.refunds if refund.stands)

    @property
    def refundable(self) -> int:
        """What can still be sent back."""
        return self.amount - self.amount_refunded if self.took_money else 0

    def render(self, api: Api) -> Json:
        """The object as an event carries it."""
        amount_captured = {"amount_captured": self.amount_captured} if api.says_captured else {}
        return self._render_own() | amount_captured

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
            "refunded": 0 < self.amount == self.amount_refunded,
            "review": None,
            "shipping": None,
            "source": None,
            "source_transfer": None,
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
class Session:
    """A Checkout Session; it has no PaymentIntent until the donor submits it (before 2022: from the beginning)."""

    id: str
    created: int
    amount: int
    currency: str
    metadata: Metadata
    client_reference_id: str | None
    livemode: bool
    mode: str = "payment"
    status: str = "open"
    payment_status: str = "unpaid"
    payment_intent: str | None = None
    donor: Donor = NOBODY
    was_declined: bool = False
    told_at: int | None = None  # when an event first carried it
    paid_told_at: int | None = None  # when one first said that it is paid

    def render(self, api: Api) -> Json:
        """The object as an event carries it."""
        whole = self._render_own()
        return whole if api.says_session else {name: value for name, value in whole.items() if name in OLD_SESSION}

    def _render_own(self) -> Json:
        details = self.donor.details()
        customer = details | {"business_name": None, "individual_name": None, "tax_exempt": "none", "tax_ids": []}
        return {
            "id": self.id,
            "object": "checkout.session",
            "adaptive_pricing": {"enabled": True},
            "after_expiration": None,
            "allow_promotion_codes": False,
            "amount_subtotal": self.amount,
            "amount_total": self.amount,
            "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None},
            "billing_address_collection": "auto",
            "cancel_url": "https://donate.example/canceled",
            "client_reference_id": self.client_reference_id,
            "client_secret": None,
            "collected_information": {
                "business_name": None,
                "individual_name": None,
                "shipping_details": {"address": details["address"], "name": details["name"]},
            },
            "consent": None,
            "created": self.created,
            "currency": self.currency,
            "customer": None,
            "customer_creation": "if_required",
            "customer_details": None if self.donor is NOBODY else customer,
            "customer_email": None,
            "discounts": [],
            "expires_at": self.created + DAY_S,
            "invoice": None,
            "livemode": self.livemode,
            "locale": None,
            "metadata": dict(self.metadata),
            "mode": self.mode,
            "payment_intent": self.payment_intent,
            "payment_link": None,
            "payment_method_collection": "if_required",
            "payment_method_types": ["card", "us_bank_account"],
            "payment_status": self.payment_status,
            "phone_number_collection": {"enabled": True},
            "recovered_from": None,
            "setup_intent": None,
            "shipping_cost": None,
            "status": self.status,
            "submit_type": "donate",
            "subscription": None,
            "success_url": "https://donate.example/thanks",
            "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
            "ui_mode": "hosted",
            "url": None,
        }


# What a session said of itself in 2019.
OLD_SESSION = frozenset(
    "id object cancel_url client_reference_id livemode locale metadata mode payment_intent payment_method_types"
    " setup_intent submit_type subscription success_url".split()
)


@dataclass
class Refund:
    """Money on its way back to the donor; it can still fail after it succeeded."""

    id: str
    created: int
    amount: int
    currency: str
    charge: Charge
    status: str
    failure_reason: str | None = None
    told: bool = False  # by itself, not only in its charge's sum
    hidden: bool = False  # beside a released hold: an earlier snapshot of its second looks as if it held this refund

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
            "charge": self.charge.id,
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
    told: bool = False

    @property
    def takes_money(self) -> bool:
        """Whether Stripe holds or has taken the disputed amount."""
        return self.status in {"needs_response", "under_review", "lost"}

    @property
    def open_or_lost(self) -> bool:
        """Whether the donation counts as disputed; an open inquiry does."""
        return self.takes_money or self.status in {"warning_needs_response", "warning_under_review"}

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


def _intent_of(charge: Charge, api: Api) -> Json:
    return {"payment_intent": charge.payment_intent} if api.links_intent else {}


@dataclass
class Books:
    """All that Stripe holds of one payment."""

    api: Api = TODAY
    account: str | None = None  # the Connect account that the events are for
    unheard: frozenset[str] = frozenset()  # types of events that the endpoint is not subscribed to
    sessions: list[Session] = field(default_factory=list)
    intent: PaymentIntent | None = None
    charges: list[Charge] = field(default_factory=list)
    paid_told_at: int | None = None  # when an event said that money came

    @property
    def refunds(self) -> list[Refund]:
        """Of all charges."""
        return [refund for charge in self.charges for refund in charge.refunds]

    @property
    def disputes(self) -> list[Dispute]:
        """Of all charges."""
        return [dispute for charge in self.charges for dispute in charge.disputes]

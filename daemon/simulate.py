"""Payment lives as signed Stripe events, for demos, tests, the benchmark and the fault harness.

A small model of Stripe's objects is driven through lives by a seeded random source. Each step changes the objects
and emits the events that Stripe (API 2026-10-28) would send; what the ledger must say in the end is read from the
objects, never from the events. Nothing here imports the fold, so the two can be held against each other.

Top to bottom: the objects, the steps of one payment, the kinds of lives, and the player that posts them.
"""

import asyncio
import hashlib
import hmac
import json
import random
import string
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import aiohttp

API_VERSION = "2026-10-28.endive"
MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86_400
ALPHABET = string.ascii_letters + string.digits

Json = dict[str, Any]


# --- Stripe's objects: mutable, rendered whole into each event --------------------------------------------------


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

DONORS = (
    Donor("Alice Smith", "Smith", "US", "alice.smith@example.com", "+12025550143", "12 Elm Street", "Albany", "12207"),
    Donor("Jean Tremblay", "Tremblay", "CA", "Jean.T@example.org", "+15145550178", "9 rue Hutt", "Laval", "H7A 0A1"),
    Donor("José María García López", "López", "MX", "jm@example.mx", "+525555550101", "Av. Sol 4", "Puebla", "72000"),
    Donor("  Zoë   O'Neill ", "O'Neill", "IE", " Zoe@Example.ie ", "+35315550199", "3 Quay Road", "Cork", "T12 X0Y"),
    Donor("Wang Xiaoming", "Xiaoming", "SG", "xm.wang@example.sg", "+6565550112", "77 Orchard Rd", "Singapore", "238"),
    Donor("山田 太郎", "太郎", "JP", "taro@example.jp", "+81355500155", "1-2-3 Ginza", "Tokyo", "104-0061"),
    Donor("Jane", "Jane", "GB", "jane@example.co.uk", "+442075550160", "221 Baker Street", "London", "NW1 6XE"),
    Donor("Anna-Lena Müller-Lüdenscheidt", "Müller-Lüdenscheidt", "DE", "al@example.de", None, "Ring 5", "Ulm", None),
    Donor("dora.private@example.net", None, "US", "dora.private@example.net", None, None, None, "94103"),
    Donor(None, None, "FR", "sans.nom@example.fr", None, None, None, "75001"),
    NOBODY,
)


@dataclass
class PaymentIntent:
    """One donation in Stripe's books."""

    id: str
    created: int
    amount: int
    currency: str
    metadata: dict[str, str]
    method: str
    receipt_email: str | None
    livemode: bool
    status: str = "requires_payment_method"
    amount_received: int = 0
    latest_charge: str | None = None
    last_payment_error: Json | None = None

    def render(self) -> Json:
        """The object as an event carries it: `latest_charge` is an id and there is no `charges`."""
        return {
            "id": self.id,
            "object": "payment_intent",
            "amount": self.amount,
            "amount_capturable": 0,
            "amount_details": {"tip": {}},
            "amount_received": self.amount_received,
            "application": None,
            "application_fee_amount": None,
            "automatic_payment_methods": None,
            "canceled_at": None,
            "cancellation_reason": None,
            "capture_method": "automatic_async",
            "client_secret": f"{self.id}_secret_{self.id[-12:]}",
            "confirmation_method": "automatic",
            "created": self.created,
            "currency": self.currency,
            "customer": None,
            "description": "Donation",
            "excluded_payment_method_types": None,
            "last_payment_error": self.last_payment_error,
            "latest_charge": self.latest_charge,
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
    """One attempt to take a PaymentIntent's money; the only object with the donor's billing details."""

    id: str
    created: int
    amount: int
    currency: str
    payment_intent: str
    metadata: dict[str, str]
    donor: Donor
    method: str
    livemode: bool
    status: str
    failure_code: str | None = None
    amount_refunded: int = 0
    disputed: bool = False
    balance_transaction: str | None = None

    @property
    def captured(self) -> bool:
        """A pending bank debit is captured before it is paid; a declined card never is."""
        return self.status != "failed"

    def render(self) -> Json:
        """The object as an event carries it."""
        return {
            "id": self.id,
            "object": "charge",
            "amount": self.amount,
            "amount_captured": self.amount if self.captured else 0,
            "amount_refunded": self.amount_refunded,
            "application": None,
            "application_fee": None,
            "application_fee_amount": None,
            "balance_transaction": self.balance_transaction,
            "billing_details": self.donor.details() | {"tax_id": None},
            "calculated_statement_descriptor": "DONATION",
            "captured": self.captured,
            "created": self.created,
            "currency": self.currency,
            "customer": None,
            "description": "Donation",
            "destination": None,
            "dispute": None,
            "disputed": self.disputed,
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
            "payment_method": f"pm_{self.payment_intent[3:]}",
            "payment_method_details": {"type": self.method, self.method: self._method_details()},
            "presentment_details": None,
            "radar_options": {},
            "receipt_email": self.donor.email,
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
            "country": self.donor.country,
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
    """A Checkout Session of mode `payment`; it has no PaymentIntent until the donor submits it."""

    id: str
    created: int
    amount: int
    currency: str
    metadata: dict[str, str]
    client_reference_id: str | None
    livemode: bool
    status: str = "open"
    payment_status: str = "unpaid"
    payment_intent: str | None = None
    donor: Donor = NOBODY

    def render(self) -> Json:
        """The object as an event carries it."""
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
            "mode": "payment",
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


@dataclass
class Refund:
    """Money on its way back to the donor; it can still fail after it succeeded."""

    id: str
    created: int
    amount: int
    currency: str
    charge: str
    payment_intent: str
    status: str
    failure_reason: str | None = None

    def render(self) -> Json:
        """The object as an event carries it: it inherits no metadata, `payment_intent` is the link."""
        return {
            "id": self.id,
            "object": "refund",
            "amount": self.amount,
            "balance_transaction": f"txn_{self.id[3:]}",
            "charge": self.charge,
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
            "payment_intent": self.payment_intent,
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
    charge: str
    payment_intent: str
    donor: Donor
    livemode: bool
    status: str

    @property
    def takes_money(self) -> bool:
        """Whether Stripe holds or has taken the disputed amount."""
        return self.status in {"needs_response", "under_review", "lost"}

    @property
    def open_or_lost(self) -> bool:
        """Whether the donation counts as disputed; an open inquiry does."""
        return self.takes_money or self.status in {"warning_needs_response", "warning_under_review"}

    def render(self) -> Json:
        """The object as an event carries it, with the evidence Stripe fills in by itself."""
        evidence = {
            "access_activity_log": None,
            "billing_address": self.donor.street,
            "customer_email_address": self.donor.email,
            "customer_name": self.donor.name,
            "customer_purchase_ip": "203.0.113.77",
            "product_description": None,
            "uncategorized_text": None,
        }
        return {
            "id": self.id,
            "object": "dispute",
            "amount": self.amount,
            "balance_transactions": [],
            "charge": self.charge,
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
            "payment_intent": self.payment_intent,
            "payment_method_details": {
                "card": {"brand": "visa", "case_type": "chargeback", "network_reason_code": "10.4"},
                "type": "card",
            },
            "reason": "fraudulent",
            "status": self.status,
        }


# --- One payment: each step changes the objects and emits what Stripe would send --------------------------------


@dataclass(frozen=True)
class Expected:
    """What the ledger must say of one donation, read from the model's objects. Times are Unix seconds."""

    donation: str
    ticket: str | None
    amount_minor: int
    currency: str  # in capitals, as the ledger shows it
    refunded_minor: int
    disputed_minor: int
    status: str
    donor: str | None
    country: str | None
    created_at: int
    paid_at: int | None
    refunded_at: int | None


class Payment:
    """One donor's way through Stripe: a clock that the life moves on, the objects so far, the events so far.

    `named` says where the ticket is written: on every object, or only in the session's client_reference_id.
    """

    def __init__(
        self,
        rng: random.Random,
        *,
        at: int,
        amount: int,
        currency: str,
        donor: Donor,
        ticket: str | None,
        named: str = "everywhere",
        billing: bool = True,
        livemode: bool = False,
    ) -> None:
        self.rng, self.at = rng, at
        self.amount, self.currency, self.donor, self.ticket = amount, currency, donor, ticket
        self.metadata = {"ticketId": ticket} if ticket is not None and named == "everywhere" else {}
        self.billing = donor if billing else NOBODY  # wallets often leave the charge's billing details null
        self.livemode = livemode
        self.session: Session | None = None
        self.intent: PaymentIntent | None = None
        self.charges: list[Charge] = []
        self.refunds: list[Refund] = []
        self.disputes: list[Dispute] = []
        self.events: list[Json] = []
        self._paid_at: int | None = None

    def wait(self, at_least_s: int, at_most_s: int) -> None:
        """Lets time pass."""
        self.at += self.rng.randint(at_least_s, at_most_s)

    def open_session(self) -> Session:
        """The donor is sent to Checkout; Stripe sends nothing yet."""
        prefix = "cs_live_" if self.livemode else "cs_test_"
        self.session = Session(
            self._id(prefix + "a1", 56),
            self.at,
            self.amount,
            self.currency,
            self.metadata,
            self.ticket,
            self.livemode,
        )
        return self.session

    def create_intent(self, method: str = "card") -> PaymentIntent:
        """A PaymentIntent comes to be: when a session is submitted, or straight from a site's own form."""
        receipt_email = self.donor.email if self.rng.random() < 0.5 else None
        self.intent = PaymentIntent(
            self._id("pi_3"),
            self.at,
            self.amount,
            self.currency,
            self.metadata,
            method,
            receipt_email,
            self.livemode,
        )
        if self.session is not None:
            self.session.payment_intent = self.intent.id
        self._emit("payment_intent.created", self.intent.render())
        return self.intent

    def decline(self, intent: PaymentIntent) -> None:
        """The bank refuses; the PaymentIntent can be tried again."""
        charge = self._charge(intent, "failed", failure_code="card_declined")
        self._attempt_failed(intent, charge)

    def succeed(self, intent: PaymentIntent) -> Charge:
        """The card is charged."""
        charge = self._charge(intent, "succeeded")
        self._paid(intent, charge)
        return charge

    def start_debit(self, intent: PaymentIntent) -> Charge:
        """A bank debit is under way; days pass before it clears or bounces."""
        charge = self._charge(intent, "pending")
        intent.status = "processing"
        self._emit("charge.pending", charge.render())
        self._emit("payment_intent.processing", intent.render())
        return charge

    def clear_debit(self, intent: PaymentIntent, charge: Charge) -> None:
        """The bank debit arrives, and with it the session is paid."""
        charge.status = "succeeded"
        self._paid(intent, charge)
        self._session_event("async_payment_succeeded", payment_status="paid")

    def bounce_debit(self, intent: PaymentIntent, charge: Charge) -> None:
        """The bank debit fails for good."""
        charge.status, charge.failure_code = "failed", "insufficient_funds"
        self._attempt_failed(intent, charge)
        self._session_event("async_payment_failed", payment_status="unpaid")

    def complete_session(self) -> None:
        """Checkout is done, whether or not the money has arrived."""
        paid = self.intent is not None and self.intent.status == "succeeded"
        self._session_event("completed", status="complete", payment_status="paid" if paid else "unpaid")

    def expire_session(self) -> None:
        """The donor never came back."""
        self._session_event("expired", status="expired")

    def settle(self, charge: Charge) -> None:
        """Capture is asynchronous: the balance transaction follows in a `charge.updated`."""
        charge.balance_transaction = self._id("txn_3")
        self._emit("charge.updated", charge.render(), previous={"balance_transaction": None})

    def refund(self, charge: Charge, amount: int, status: str = "succeeded") -> Refund:
        """Part or all of a charge is sent back; Stripe tells it as a refund and as the charge's new sum."""
        refund = Refund(self._id("re_3"), self.at, amount, charge.currency, charge.id, charge.payment_intent, status)
        self.refunds.append(refund)
        before = charge.amount_refunded
        charge.amount_refunded += amount
        self._emit("refund.created", refund.render())
        self._emit("charge.refunded", charge.render(), previous={"amount_refunded": before})
        return refund

    def change_refund(self, refund: Refund, status: str) -> None:
        """The refund arrives (`succeeded`) or comes back (`failed`: the charge has its money again)."""
        before = {"status": refund.status}
        refund.status = status
        if status == "failed":
            refund.failure_reason = "lost_or_stolen_card"
            charge = next(charge for charge in self.charges if charge.id == refund.charge)
            charge.amount_refunded -= refund.amount
            self._emit("refund.failed", refund.render())
        self._emit("refund.updated", refund.render(), previous=before)
        self._emit("charge.refund.updated", refund.render(), previous=before)

    def dispute(self, charge: Charge, amount: int, status: str = "needs_response") -> Dispute:
        """The donor's bank disputes a charge, or only asks (`warning_needs_response`)."""
        dispute = Dispute(
            self._id("du_1"),
            self.at,
            amount,
            charge.currency,
            charge.id,
            charge.payment_intent,
            self.donor,
            self.livemode,
            status,
        )
        charge.disputed = True
        self.disputes.append(dispute)
        self._emit("charge.dispute.created", dispute.render())
        if dispute.takes_money:
            self._emit("charge.dispute.funds_withdrawn", dispute.render())
        return dispute

    def change_dispute(self, dispute: Dispute, status: str) -> None:
        """An inquiry escalates, evidence is sent, or the bank decides (`won`, `lost`, `warning_closed`)."""
        before, took_money = {"status": dispute.status}, dispute.takes_money
        dispute.status = status
        closed = status in {"won", "lost", "warning_closed"}
        self._emit(
            "charge.dispute.closed" if closed else "charge.dispute.updated",
            dispute.render(),
            previous=None if closed else before,
        )
        if status == "won":
            self._emit("charge.dispute.funds_reinstated", dispute.render())
        elif dispute.takes_money and not took_money:
            self._emit("charge.dispute.funds_withdrawn", dispute.render())

    def expected(self) -> Expected:
        """What the ledger must say, read from the objects as they are now.

        Raises ValueError for a payment that has neither a session nor a PaymentIntent.
        """
        stripe_objects = [each for each in (self.session, self.intent) if each is not None]
        if not stripe_objects:
            raise ValueError("a payment without a session and without a PaymentIntent is no donation")
        last_charge = self.charges[-1] if self.charges else None
        refunded = last_charge.amount_refunded if last_charge else 0
        disputed = sum(dispute.amount for dispute in self.disputes if dispute.takes_money)
        # The charge speaks first, the session where the charge's billing details are null.
        seen_in_session = self.session is not None and self.session.donor is not NOBODY
        seen_in_charge = bool(self.charges) and self.billing is not NOBODY
        donor = self.donor if seen_in_charge or seen_in_session else NOBODY
        return Expected(
            donation=stripe_objects[-1].id,
            ticket=self.ticket if self.metadata or self.session is not None else None,
            amount_minor=self.amount,
            currency=self.currency.upper(),
            refunded_minor=refunded,
            disputed_minor=min(disputed, self.amount - refunded),
            status=self._status(refunded),
            donor=donor.last_name,
            country=donor.country,
            created_at=min(each.created for each in stripe_objects),
            paid_at=self._paid_at,
            refunded_at=min(refund.created for refund in self.refunds) if refunded else None,
        )

    def _status(self, refunded: int) -> str:
        if any(dispute.open_or_lost for dispute in self.disputes):
            return "DISPUTED"
        if self._paid_at is not None:
            return "REFUNDED" if refunded >= self.amount else "PAID"
        if self.session is not None and self.session.status == "expired":
            return "EXPIRED"
        return "FAILED" if any(charge.status == "failed" for charge in self.charges) else "CREATED"

    def _charge(self, intent: PaymentIntent, status: str, failure_code: str | None = None) -> Charge:
        charge = Charge(
            self._id("ch_3"),
            self.at,
            intent.amount,
            intent.currency,
            intent.id,
            intent.metadata,
            self.billing,
            intent.method,
            self.livemode,
            status,
            failure_code,
        )
        intent.latest_charge = charge.id
        self.charges.append(charge)
        return charge

    def _paid(self, intent: PaymentIntent, charge: Charge) -> None:
        intent.status, intent.amount_received, intent.last_payment_error = "succeeded", intent.amount, None
        self._paid_at = self.at
        self._emit("charge.succeeded", charge.render())
        self._emit("payment_intent.succeeded", intent.render())

    def _attempt_failed(self, intent: PaymentIntent, charge: Charge) -> None:
        intent.status = "requires_payment_method"
        intent.last_payment_error = {
            "charge": charge.id,
            "code": charge.failure_code,
            "message": "Your card was declined.",
            "payment_method": {
                "id": f"pm_{intent.id[3:]}",
                "object": "payment_method",
                "billing_details": self.billing.details(),
                "created": charge.created,
                "livemode": self.livemode,
                "type": intent.method,
            },
            "type": "card_error",
        }
        self._emit("charge.failed", charge.render())
        self._emit("payment_intent.payment_failed", intent.render())

    def _session_event(self, suffix: str, **changes: str) -> None:
        """Changes the session and emits it; a payment without a session has nothing to say here."""
        if self.session is None:
            return
        for name, value in changes.items():
            setattr(self.session, name, value)
        if self.session.status == "complete":
            self.session.donor = self.donor
        self._emit(f"checkout.session.{suffix}", self.session.render())

    def _emit(self, event_type: str, rendered: Json, previous: Mapping[str, object] | None = None) -> None:
        data: Json = {"object": rendered}
        if previous is not None:
            data["previous_attributes"] = dict(previous)
        self.events.append(
            {
                "id": self._id("evt_1"),
                "object": "event",
                "api_version": API_VERSION,
                "created": self.at,
                "data": data,
                "livemode": self.livemode,
                "pending_webhooks": 1,
                "request": {"id": None, "idempotency_key": None},
                "type": event_type,
            }
        )

    def _id(self, prefix: str, length: int = 23) -> str:
        return prefix + "".join(self.rng.choices(ALPHABET, k=length))


# --- Kinds of lives ---------------------------------------------------------------------------------------------


def _by_checkout(payment: Payment) -> Charge:
    """Checkout, paid by card: the opening of most lives."""
    payment.open_session()
    payment.wait(20, 15 * MINUTE_S)
    intent = payment.create_intent()
    payment.wait(0, 3)
    charge = payment.succeed(intent)
    payment.wait(0, 1)
    payment.complete_session()
    payment.wait(1, 5)
    payment.settle(charge)
    return charge


def _paid(payment: Payment) -> None:
    _by_checkout(payment)


def _debit(payment: Payment) -> tuple[PaymentIntent, Charge]:
    """Checkout with a bank debit, up to the days of waiting."""
    payment.open_session()
    payment.wait(60, 15 * MINUTE_S)
    intent = payment.create_intent("us_bank_account")
    charge = payment.start_debit(intent)
    payment.complete_session()
    payment.wait(2 * DAY_S, 4 * DAY_S)
    return intent, charge


def _paid_late(payment: Payment) -> None:
    payment.clear_debit(*_debit(payment))


def _debit_failed(payment: Payment) -> None:
    payment.bounce_debit(*_debit(payment))


def _refunded(payment: Payment) -> None:
    charge = _by_checkout(payment)
    payment.wait(HOUR_S, 3 * DAY_S)
    refund = payment.refund(charge, charge.amount)
    payment.wait(MINUTE_S, DAY_S)
    payment.change_refund(refund, "succeeded")


def _partially_refunded(payment: Payment) -> None:
    """One to three refunds, the first perhaps pending; never the whole amount."""
    charge = _by_checkout(payment)
    for _ in range(payment.rng.randint(1, 3)):
        payment.wait(HOUR_S, DAY_S)
        pending = payment.rng.random() < 0.3
        refund = payment.refund(charge, charge.amount // 100 * 30, "pending" if pending else "succeeded")
        if payment.rng.random() < 0.5:
            payment.wait(MINUTE_S, HOUR_S)
            payment.change_refund(refund, "succeeded")


def _refund_failed(payment: Payment) -> None:
    charge = _by_checkout(payment)
    payment.wait(HOUR_S, DAY_S)
    refund = payment.refund(charge, charge.amount)
    payment.wait(HOUR_S, 2 * DAY_S)
    payment.change_refund(refund, "failed")


def _dispute_open(payment: Payment) -> Dispute:
    charge = _by_checkout(payment)
    payment.wait(HOUR_S, 3 * DAY_S)
    return payment.dispute(charge, charge.amount)


def _dispute_decided(payment: Payment, status: str) -> None:
    dispute = _dispute_open(payment)
    payment.wait(HOUR_S, DAY_S)
    payment.change_dispute(dispute, "under_review")
    payment.wait(HOUR_S, 2 * DAY_S)
    payment.change_dispute(dispute, status)


def _dispute_won(payment: Payment) -> None:
    _dispute_decided(payment, "won")


def _dispute_lost(payment: Payment) -> None:
    _dispute_decided(payment, "lost")


def _inquiry(payment: Payment) -> None:
    """The bank asks; it is satisfied, or disputes."""
    charge = _by_checkout(payment)
    payment.wait(HOUR_S, 3 * DAY_S)
    inquiry = payment.dispute(charge, charge.amount, "warning_needs_response")
    payment.wait(HOUR_S, DAY_S)
    payment.change_dispute(inquiry, payment.rng.choice(["warning_closed", "needs_response"]))


def _expired(payment: Payment) -> None:
    payment.open_session()
    payment.wait(DAY_S, DAY_S + HOUR_S)
    payment.expire_session()


def _failed_then_paid(payment: Payment) -> None:
    """One or two declined attempts, then success; in Checkout, or in a site's own form."""
    if payment.rng.random() < 0.5 or not payment.metadata:
        payment.open_session()
        payment.wait(20, 15 * MINUTE_S)
    intent = payment.create_intent()
    for _ in range(payment.rng.randint(1, 2)):
        payment.wait(1, 3)
        payment.decline(intent)
    payment.wait(5, 10 * MINUTE_S)
    charge = payment.succeed(intent)
    payment.complete_session()
    payment.wait(1, 5)
    payment.settle(charge)


@dataclass(frozen=True)
class _Kind:
    """A way a payment can go: its steps, how many of twenty lives it is, and the days it takes at most."""

    name: str
    steps: Callable[[Payment], object]
    share: int
    longest_days: int = 1
    has_ticket: bool = True


KINDS = (
    _Kind("paid", _paid, 6),
    _Kind("paid_late", _paid_late, 1, longest_days=5),
    _Kind("refunded", _refunded, 2, longest_days=5),
    _Kind("partially_refunded", _partially_refunded, 2, longest_days=5),
    _Kind("dispute_won", _dispute_won, 1, longest_days=7),
    _Kind("dispute_lost", _dispute_lost, 1, longest_days=7),
    _Kind("dispute_open", _dispute_open, 1, longest_days=4),
    _Kind("inquiry", _inquiry, 1, longest_days=5),
    _Kind("expired", _expired, 1, longest_days=2),
    _Kind("failed_then_paid", _failed_then_paid, 1),
    _Kind("no_ticket", _paid, 1, has_ticket=False),
    _Kind("refund_failed", _refund_failed, 1, longest_days=4),
    _Kind("debit_failed", _debit_failed, 1, longest_days=5),
)
DECK = tuple(kind for kind in KINDS for _ in range(kind.share))

# How often each currency is drawn, and its usual gifts in minor units (0, 2 and 3 decimals: JPY, most, KWD).
CURRENCIES: Mapping[str, tuple[int, tuple[int, ...]]] = {
    "usd": (80, (500, 1000, 2500, 5000, 7512, 10_000, 12_500, 100_000)),
    "eur": (9, (1000, 2000, 5000, 9999)),
    "cad": (5, (1500, 5000)),
    "jpy": (4, (500, 1000, 30_000)),
    "kwd": (2, (5000, 12_340)),
}


@dataclass(frozen=True)
class Life:
    """One payment from its beginning to `now`: its kind, its events in Stripe's order, and its end."""

    kind: str
    events: tuple[Json, ...]
    expected: Expected


def lives(seed: int, payments: int, tickets: Sequence[str], *, livemode: bool = False, now: int) -> list[Life]:
    """Payment lives, each begun in the 30 days before `now` (Unix seconds) and ended by then.

    The same arguments give the same lives, and fewer payments a prefix of more. Any twenty payments that start at
    a multiple of twenty hold every kind. Raises ValueError when there is no ticket to give to.
    """
    if not tickets:
        raise ValueError("no ticket to give to")
    return [_life(seed, index, tickets, livemode, now) for index in range(payments)]


def _life(seed: int, index: int, tickets: Sequence[str], livemode: bool, now: int) -> Life:
    round_, place = divmod(index, len(DECK))
    kind = _seeded(f"{seed} deck {round_}").sample(DECK, len(DECK))[place]
    rng = _seeded(f"{seed} life {index}")
    currency = rng.choices(list(CURRENCIES), [weight for weight, _ in CURRENCIES.values()])[0]
    payment = Payment(
        rng,
        at=now - rng.randint(kind.longest_days * DAY_S, 30 * DAY_S),
        amount=rng.choice(CURRENCIES[currency][1]),
        currency=currency,
        donor=rng.choice(DONORS),
        ticket=rng.choice(tickets) if kind.has_ticket else None,
        named=rng.choices(["everywhere", "reference"], [4, 1])[0],
        billing=rng.random() < 0.8,
        livemode=livemode,
    )
    kind.steps(payment)
    return Life(kind.name, tuple(payment.events), payment.expected())


def shuffled(lives: Sequence[Life], seed: int, duplicates: float = 0.1) -> list[Json]:
    """All events of the lives out of order, with that share of them sent again."""
    rng = _seeded(f"{seed} order")
    events = [event for life in lives for event in life.events]
    events += rng.choices(events, k=round(len(events) * duplicates)) if events else []
    rng.shuffle(events)
    return events


def seed_example(ticket: str = "ticket_abc123") -> list[Life]:
    """The four donations of the original design's ledger view; the first two are those of its JSON example."""
    smith = Donor("John Smith", "Smith", "US", "john.smith@example.com", "+12025550101", "1 Main St", "Troy", "12180")
    johnson = Donor("Eve Johnson", "Johnson", "CA", "eve.j@example.ca", None, "8 King St", "Toronto", "M5H 1A1")
    garcia = Donor("Maria Garcia", "Garcia", "MX", "maria@example.mx", None, "Calle 3", "Merida", "97000")
    return [
        _example(ticket, smith, 5000, "2024-12-16T10:30:00", "2024-12-16T10:31:15"),
        _example(ticket, johnson, 10_000, "2024-12-15T14:20:00", "2024-12-15T14:21:30", refunded="2024-12-16T09:00:00"),
        _example(ticket, NOBODY, 7500, "2024-12-14T08:14:00", "2024-12-14T08:15:00"),
        _example(ticket, garcia, 12_500, "2024-12-13T16:44:00", "2024-12-13T16:45:00"),
    ]


def _example(ticket: str, donor: Donor, amount: int, opened: str, paid: str, *, refunded: str | None = None) -> Life:
    rng = _seeded(f"example {opened}")
    payment = Payment(rng, at=_second(opened), amount=amount, currency="usd", donor=donor, ticket=ticket)
    payment.open_session()
    payment.at = _second(paid)
    charge = payment.succeed(payment.create_intent())
    payment.complete_session()
    if refunded is not None:
        payment.at = _second(refunded)
        payment.refund(charge, amount)
    return Life("refunded" if refunded else "paid", tuple(payment.events), payment.expected())


def _second(utc: str) -> int:
    return int(datetime.fromisoformat(utc).replace(tzinfo=UTC).timestamp())


def _seeded(seed: str) -> random.Random:
    return random.Random(seed)  # noqa: S311 - repeatable test data, nothing secret


# --- The player: what Stripe's delivery does --------------------------------------------------------------------


@dataclass(frozen=True)
class Retry:
    """How a delivery that met 503, a proxy's error or a lost connection is tried again."""

    attempts: int = 6  # posts of one event, the first included
    delay_s: float = 1.0  # where the reply names no Retry-After; doubles each time
    longest_delay_s: float = 60.0  # also the bound on what a Retry-After may ask for

    def wait_s(self, attempt: int, retry_after: str | None) -> float:
        """Seconds to wait after the given attempt (from 1)."""
        asked = float(retry_after) if retry_after and retry_after.isdigit() else None
        return min(self.delay_s * 2 ** (attempt - 1) if asked is None else asked, self.longest_delay_s)


NO_REPLY = 0
WORTH_ANOTHER_TRY = frozenset({NO_REPLY, 429, 502, 503, 504})
REPLY_TIMEOUT_S = 30.0  # as long as Stripe waits, at most


@dataclass
class Outcome:
    """What became of the events so far; `replies` counts every post, a retried one several times.

    `total` = applied + duplicate + ignored + refused + undelivered + remaining.
    """

    total: int
    replies: Counter[str] = field(default_factory=Counter)  # HTTP status, or "no reply"
    applied: int = 0
    duplicate: int = 0
    ignored: int = 0  # a type that changes nothing, or the other mode
    refused: int = 0  # a final status that is no success
    undelivered: int = 0  # every attempt failed
    interrupted: bool = False
    acknowledged: set[str] = field(default_factory=set)  # ids of events that were answered with 200

    @property
    def remaining(self) -> int:
        """Events that have no final answer."""
        answered = self.applied + self.duplicate + self.ignored + self.refused + self.undelivered
        return self.total - answered


Progress = Callable[[Outcome], None]


async def play(
    base_url: str,
    secret: str,
    events: Sequence[Json],
    *,
    concurrency: int = 8,
    retry: Retry = Retry(),
    progress: Progress | None = None,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Outcome:
    """Posts the events, signed, to {base_url}/webhooks/stripe, and says what became of them.

    `progress` is called after every post with the outcome so far. Cancelling (Ctrl-C under asyncio.run) stops the
    play and returns what was counted, marked `interrupted`. A delivery that was in flight then counts as remaining;
    playing it again is harmless.
    """
    outcome = Outcome(len(events))
    waiting = iter(events)
    timeout = aiohttp.ClientTimeout(total=REPLY_TIMEOUT_S)
    connector = aiohttp.TCPConnector(limit=concurrency)
    try:
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as http, asyncio.TaskGroup() as workers:
            sender = _Sender(http, base_url.rstrip("/") + "/webhooks/stripe", secret, retry, progress, clock, sleep)
            for _ in range(concurrency):
                workers.create_task(sender.send_all(waiting, outcome))
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()
        outcome.interrupted = True
    return outcome


@dataclass(frozen=True)
class _Sender:
    http: aiohttp.ClientSession
    url: str
    secret: str
    retry: Retry
    progress: Progress | None
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]

    async def send_all(self, events: Iterator[Json], outcome: Outcome) -> None:
        """One worker: takes the next event until none is left."""
        for event in events:
            await self.send(event, outcome)

    async def send(self, event: Json, outcome: Outcome) -> None:
        """One event, until it has a final answer or its attempts are used up."""
        body = encode(event)
        for attempt in range(1, self.retry.attempts + 1):
            status, retry_after, reply = await self._post(body)
            outcome.replies[str(status) if status != NO_REPLY else "no reply"] += 1
            again = status in WORTH_ANOTHER_TRY
            if not again:
                _count(outcome, event, status, reply)
            elif attempt == self.retry.attempts:
                outcome.undelivered += 1
            if self.progress is not None:
                self.progress(outcome)
            if not again or attempt == self.retry.attempts:
                return
            await self.sleep(self.retry.wait_s(attempt, retry_after))

    async def _post(self, body: bytes) -> tuple[int, str | None, Json]:
        """Status (or NO_REPLY), Retry-After and the JSON reply; signed anew, as Stripe does each time."""
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "Stripe-Signature": sign(body, self.secret, int(self.clock())),
            "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
        }
        try:
            async with self.http.post(self.url, data=body, headers=headers) as response:
                text = await response.read()
                return response.status, response.headers.get("Retry-After"), _object(text)
        except (aiohttp.ClientError, TimeoutError):
            return NO_REPLY, None, {}


def encode(event: Json) -> bytes:
    """The bytes of an event's body, indented as Stripe sends them."""
    return json.dumps(event, indent=2, ensure_ascii=False).encode()


def sign(body: bytes, secret: str, timestamp: int) -> str:
    """The Stripe-Signature header of a body at a Unix second: HMAC-SHA256 over `{timestamp}.{body}`."""
    signature = hmac.new(secret.encode(), b"%d." % timestamp + body, hashlib.sha256)
    return f"t={timestamp},v1={signature.hexdigest()}"


def _count(outcome: Outcome, event: Json, status: int, reply: Json) -> None:
    if status != 200:
        outcome.refused += 1
        return
    outcome.acknowledged.add(event["id"])
    if reply.get("idempotent"):
        outcome.duplicate += 1
    elif reply.get("handled", True):
        outcome.applied += 1
    else:
        outcome.ignored += 1


def _object(text: bytes) -> Json:
    """A JSON object, or an empty one for anything else (a proxy's error page)."""
    try:
        decoded = json.loads(text)
    except ValueError:
        return {}
    return decoded if isinstance(decoded, dict) else {}

"""Checkout Sessions, as `stripe_objects` has the objects of one payment."""

from dataclasses import dataclass, field

from daemon.simulator.api_versions import Api
from daemon.simulator.stripe_objects import DAY_S, NO_DONOR, Donor, Json, Metadata, Reports


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
    subscription: str | None = None
    donor: Donor = NO_DONOR
    asks_consent: bool = False  # whether it has the custom field by which the donor consents to showing the name
    shows_name: bool | None = None  # what the donor chose
    reports: Reports = field(default_factory=list)
    requested: Json = field(default_factory=dict)  # fields as the request that made the session named them

    def render(self, api: Api) -> Json:
        """The object as an event carries it."""
        whole = self._render_own() | self.requested
        return whole if api.has_whole_session else {name: value for name, value in whole.items() if name in OLD_SESSION}

    def _render_own(self) -> Json:
        details = self.donor.details()
        customer = details | {"business_name": None, "individual_name": None, "tax_exempt": "none", "tax_ids": []}
        return _constant_fields() | {
            "id": self.id,
            "object": "checkout.session",
            "amount_subtotal": self.amount,
            "amount_total": self.amount,
            "client_reference_id": self.client_reference_id,
            "collected_information": {
                "business_name": None,
                "individual_name": None,
                "shipping_details": {"address": details["address"], "name": details["name"]},
            },
            "created": self.created,
            "currency": self.currency,
            "custom_fields": [self._consent_field()] if self.asks_consent else [],
            "customer_details": None if self.donor is NO_DONOR else customer,
            "expires_at": self.created + DAY_S,
            "livemode": self.livemode,
            "metadata": dict(self.metadata),
            "mode": self.mode,
            "payment_intent": self.payment_intent,
            "payment_status": self.payment_status,
            "status": self.status,
            "subscription": self.subscription,
        }

    def _consent_field(self) -> Json:
        names = {None: None, True: "yes", False: "no"}
        options = [{"label": label, "value": value} for label, value in (("Yes", "yes"), ("No", "no"))]
        return {
            "dropdown": {"default_value": None, "options": options, "value": names[self.shows_name]},
            "key": "showName",
            "label": {"custom": "Show my name", "type": "custom"},
            "optional": True,
            "type": "dropdown",
        }


def _constant_fields() -> Json:
    """What is the same in all sessions."""
    return {
        "adaptive_pricing": {"enabled": True},
        "after_expiration": None,
        "allow_promotion_codes": False,
        "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None},
        "billing_address_collection": "auto",
        "cancel_url": "https://donate.example/canceled",
        "client_secret": None,
        "consent": None,
        "customer": None,
        "customer_creation": "if_required",
        "customer_email": None,
        "discounts": [],
        "invoice": None,
        "locale": None,
        "payment_link": None,
        "payment_method_collection": "if_required",
        "payment_method_types": ["card", "us_bank_account"],
        "phone_number_collection": {"enabled": True},
        "recovered_from": None,
        "setup_intent": None,
        "shipping_cost": None,
        "submit_type": "donate",
        "success_url": "https://donate.example/thanks",
        "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
        "ui_mode": "hosted",
        "url": None,
    }


# The fields of a session in 2019.
OLD_SESSION = frozenset(
    "id object cancel_url client_reference_id livemode locale metadata mode payment_intent payment_method_types"
    " setup_intent submit_type subscription success_url".split()
)

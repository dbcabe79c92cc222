"""What Stripe holds of one payment, what the donor enters, and the endpoint that receives the events."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from daemon.simulator.api_versions import TODAY, Api
from daemon.simulator.stripe_invoices import Invoice, Subscription
from daemon.simulator.stripe_objects import (
    NO_DONOR,
    Charge,
    Dispute,
    Donor,
    Json,
    Metadata,
    PaymentIntent,
    Refund,
    Reports,
)
from daemon.simulator.stripe_sessions import Session
from daemon.simulator.stripe_warnings import EarlyFraudWarning


class Rendered(Protocol):
    """An object of Stripe's."""

    def render(self, api: Api) -> Json:
        """The object as an event carries it."""
        ...


class Reported(Rendered, Protocol):
    """An object that keeps what the endpoint received of it."""

    reports: Reports


@dataclass
class Inputs:
    """What the donor and the site enter; objects copy it when they are created."""

    customer: Donor = NO_DONOR  # into a completed session, and into an invoice
    billing: Donor = NO_DONOR  # into each charge
    receipt_email: str | None = None  # into the PaymentIntent
    session_metadata: Metadata = field(default_factory=dict)
    reference: str | None = None  # the session's client_reference_id
    intent_metadata: Metadata = field(default_factory=dict)
    charge_metadata: Metadata = field(default_factory=dict)
    asks_consent: bool = False  # whether a session asks by its custom field
    shows_name: bool | None = None  # what the donor chooses there


@dataclass
class Endpoint:
    """A webhook endpoint, and the clock of what it receives. `new_id` makes an id from its prefix."""

    new_id: Callable[[str], str]
    at: int
    api: Api = TODAY
    account: str | None = None  # the Connect account that the events are for
    livemode: bool = False
    unsubscribed: frozenset[str] = frozenset()  # types of events that it does not receive
    events: list[Json] = field(default_factory=list)

    def receives(self, event_type: str) -> bool:
        """Whether Stripe sends events of this type here."""
        return event_type not in self.unsubscribed

    def send(self, event_type: str, shown: Json, previous: Mapping[str, object] | None = None) -> None:
        """One more event, at the present second."""
        data: Json = {"object": shown}
        if previous is not None:
            data["previous_attributes"] = dict(previous)
        account = {"account": self.account} if self.account else {}
        self.events.append(
            {
                "id": self.new_id("evt_1"),
                "object": "event",
                "api_version": self.api.version,
                "created": self.at,
                "data": data,
                "livemode": self.livemode,
                "pending_webhooks": 1,
                "request": {"id": None, "idempotency_key": None},
                "type": event_type,
            }
            | account
        )


@dataclass
class State:
    """All that Stripe holds of one payment, with the invoice that it pays."""

    endpoint: Endpoint
    sessions: list[Session] = field(default_factory=list)
    intent: PaymentIntent | None = None
    charges: list[Charge] = field(default_factory=list)
    warnings: list[EarlyFraudWarning] = field(default_factory=list)
    invoice: Invoice | None = None
    subscription: Subscription | None = None  # the monthly donation that its session began

    @property
    def refunds(self) -> list[Refund]:
        """Of all charges."""
        return [refund for charge in self.charges for refund in charge.refunds]

    @property
    def disputes(self) -> list[Dispute]:
        """Of all charges."""
        return [dispute for charge in self.charges for dispute in charge.disputes]

    @property
    def is_paid(self) -> bool:
        """Whether a charge ever took money."""
        return any(charge.paid_at is not None for charge in self.charges)

"""Stripe's early fraud warnings: https://docs.stripe.com/api/radar/early_fraud_warnings/object"""

from dataclasses import dataclass, field

from daemon.simulator.api_versions import Api
from daemon.simulator.stripe_objects import Charge, Json, Reports


@dataclass
class EarlyFraudWarning:
    """An issuer of cards reports a charge as fraud; `actionable` until the charge is disputed or wholly refunded."""

    id: str
    created: int
    charge: Charge
    livemode: bool
    fraud_type: str
    actionable: bool = True
    reports: Reports = field(default_factory=list)

    def render(self, _api: Api) -> Json:
        """The object as an event carries it."""
        return {
            "id": self.id,
            "object": "radar.early_fraud_warning",
            "actionable": self.actionable,
            "charge": self.charge.id,
            "created": self.created,
            "fraud_type": self.fraud_type,
            "livemode": self.livemode,
            "payment_intent": self.charge.payment_intent,
        }

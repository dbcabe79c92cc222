"""The steps of an early fraud warning: it is made, and it ends when its charge is disputed or wholly refunded."""

from daemon.simulator.state import State
from daemon.simulator.stripe_objects import Charge, Json, Report
from daemon.simulator.stripe_warnings import EarlyFraudWarning


def warn(state: State, charge: Charge, fraud_type: str = "made_with_stolen_card") -> EarlyFraudWarning:
    """The issuer of the card reports a charge."""
    endpoint = state.endpoint
    warning = EarlyFraudWarning(endpoint.new_id("issfr_1"), endpoint.at, charge, endpoint.livemode, fraud_type)
    state.warnings.append(warning)
    _report(state, "created", warning)
    return warning


def end_warnings(state: State, charge: Charge) -> None:
    """Ends the warnings of a charge, if it is disputed or wholly refunded."""
    for warning in state.warnings:
        if warning.charge is charge and warning.actionable and (charge.disputes or not charge.refundable):
            warning.actionable = False
            _report(state, "updated", warning, {"actionable": True})


def _report(state: State, suffix: str, warning: EarlyFraudWarning, previous: Json | None = None) -> None:
    endpoint, event_type = state.endpoint, f"radar.early_fraud_warning.{suffix}"
    if endpoint.receives(event_type):
        shown = warning.render(endpoint.api)
        warning.reports.append(Report(endpoint.at, event_type, shown))
        endpoint.send(event_type, shown, previous)

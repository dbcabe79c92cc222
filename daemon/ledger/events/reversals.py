"""Pure: what refunds, disputes and early fraud warnings state."""

from typing import Annotated

import msgspec
from msgspec import Meta, Raw, Struct

from daemon.ledger.events.event_facts import EventFacts, Handler
from daemon.ledger.events.fields import STATUS_PATTERN, Currency, Id, Minor, Reference, Seconds, upper
from daemon.ledger.facts import RANKS, STAGE_OF_UNKNOWN, FactName, Family

REFUND_STATUSES = ("pending", "requires_action", "succeeded", "failed", "canceled")
VOID_REFUNDS = ("failed", "canceled")

WarningId = Annotated[str, Meta(pattern=r"^issfr_[A-Za-z0-9_]{1,249}\Z")]  # by this beginning they are found again


class _Refund(Struct):
    id: Id
    amount: Minor
    created: Seconds | None = None
    currency: Currency | None = None
    status: str | None = None
    payment_intent: Reference = None
    charge: Reference = None


class _Dispute(Struct):
    id: Id
    amount: Minor
    status: str
    currency: Currency | None = None
    payment_intent: Reference = None
    charge: Reference = None


class _EarlyWarning(Struct):
    id: WarningId
    actionable: bool | None = None
    created: Seconds | None = None
    fraud_type: str | None = None
    payment_intent: Reference = None
    charge: Reference = None


def _refund(event: EventFacts, raw: Raw) -> str | None:
    refund = msgspec.json.decode(raw, type=_Refund)
    intent, charge = _owners(event, refund)
    if intent is None and charge is None:
        return "this refund names neither a charge nor a PaymentIntent: it came from a customer's cash balance"
    known = event.add(
        Family.REFUND,
        refund.id,
        {
            FactName.PAYMENT_INTENT: intent,
            FactName.CHARGE: charge,
            FactName.AMOUNT: refund.amount or None,
            FactName.CREATED: refund.created,
            FactName.CURRENCY: upper(refund.currency),
        },
    )
    if refund.status in VOID_REFUNDS:
        known[FactName.FAILED] = event.at
    if refund.status not in (None, *REFUND_STATUSES):
        event.unknown_status = "refund"
    return None


def _dispute(event: EventFacts, raw: Raw) -> str | None:
    dispute = msgspec.json.decode(raw, type=_Dispute)
    intent, charge = _owners(event, dispute)
    if intent is None and charge is None:
        return "this dispute names neither a charge nor a PaymentIntent"
    if dispute.status not in RANKS:
        event.unknown_status = "dispute"
    status = dispute.status if STATUS_PATTERN.fullmatch(dispute.status) else "unknown"
    known = event.add(
        Family.DISPUTE,
        dispute.id,
        {
            FactName.PAYMENT_INTENT: intent,
            FactName.CHARGE: charge,
            FactName.STAGE: [RANKS.get(status, STAGE_OF_UNKNOWN), dispute.amount, status],
            FactName.CURRENCY: upper(dispute.currency),
        },
    )
    # Per status the earliest and the newest event: a negative time makes the earliest the greatest pair.
    known[FactName.HISTORY] = {status: {"first": [-event.at, dispute.amount], "last": [event.at, dispute.amount]}}
    return None


def _early_warning(event: EventFacts, raw: Raw) -> str | None:
    """The card's issuer believes that a charge is fraud. A warning is actionable until the charge is disputed or wholly
    refunded (https://docs.stripe.com/api/radar/early_fraud_warnings/object)."""
    warning = msgspec.json.decode(raw, type=_EarlyWarning)
    _intent, charge = _owners(event, warning)
    if charge is None:
        return "this early fraud warning names no charge"
    kind = warning.fraud_type if STATUS_PATTERN.fullmatch(warning.fraud_type or "") else "unknown"
    made_at = event.at if warning.created is None else warning.created
    known = event.add(Family.CHARGE, charge, {})
    known[FactName.WARNINGS] = {warning.id: [event.at, [int(warning.actionable is False), made_at, kind]]}
    return None


def _owners(event: EventFacts, child: _Refund | _Dispute | _EarlyWarning) -> tuple[str | None, str | None]:
    """The PaymentIntent and the charge that a refund, a dispute or a warning names; the two are tied as well."""
    intent = event.link(Family.PAYMENT_INTENT, child.payment_intent)
    charge = event.link(Family.CHARGE, child.charge)
    if intent and charge:
        event.name(Family.CHARGE, charge)[FactName.PAYMENT_INTENT] = [event.at, intent]
    return intent, charge


HANDLERS: dict[str, Handler] = {
    **{f"refund.{name}": _refund for name in ("created", "updated", "failed")},
    "charge.refund.updated": _refund,
    **{
        f"charge.dispute.{name}": _dispute
        for name in ("created", "updated", "closed", "funds_withdrawn", "funds_reinstated")
    },
    **{f"radar.early_fraud_warning.{name}": _early_warning for name in ("created", "updated")},
}

"""Pure: an object as Stripe's API gives it -> the facts that it states (SPEC 3, 12).

An object that was read states what an event that contains it would state, at the time of the reading:
`stripe_events.py` reads both. Only an event says when something became so. Here that time is taken from the object
itself, or from its balance transaction, where they contain it. Otherwise it is the time of the reading, which is never
earlier than the event's: if the event still arrives, its time counts.
"""

from collections.abc import Callable

import msgspec
from msgspec import Raw, Struct

from daemon.ledger.events.fields import NULL, Seconds
from daemon.ledger.events.reversals import VOID_REFUNDS
from daemon.ledger.facts import FactName, Facts, Family, ObjectFacts, merge_into, value
from daemon.ledger.projection import TAKES_MONEY
from daemon.ledger.stripe_events import read

# The type of an event that contains an object and says nothing more than the object itself.
EVENT_TYPES = {
    "payment_intent": "payment_intent.processing",
    "charge": "charge.updated",
    "refund": "refund.updated",
    "dispute": "charge.dispute.updated",
    "checkout.session": "checkout.session.completed",
    "invoice": "invoice.paid",
    "subscription": "customer.subscription.updated",
    "radar.early_fraud_warning": "radar.early_fraud_warning.updated",
}


class Reading(Struct, frozen=True):
    """How objects were read.

    Attributes:
        at: Stripe's time, in Unix seconds, since which each object has had the state that was read.
        livemode: the mode of the API key. An object of the other mode states nothing.
        hash_key: of e-mail hashes, or None.
        account: the connected account that the objects belong to, or None.
    """

    at: int
    livemode: bool
    hash_key: bytes | None
    account: str | None = None


class _Timed(Struct):
    """A balance transaction."""

    created: Seconds
    amount: int = 0


class _Refund(Struct):
    id: str
    amount: int
    status: str | None = None
    failure_balance_transaction: _Timed | str | None = None


class _Refunds(Struct):
    data: list[Raw]
    has_more: bool = False


class _Charge(Struct):
    """What a charge says about times. Whole objects stand in the place of ids where a call expanded them."""

    id: str
    created: Seconds = 0
    status: str | None = None
    amount_refunded: int | None = None
    balance_transaction: _Timed | str | None = None
    failure_balance_transaction: _Timed | str | None = None
    refunds: _Refunds | None = None


class _PaymentIntent(Struct):
    id: str
    canceled_at: Seconds | None = None
    last_payment_error: Raw = NULL
    latest_charge: _Charge | str | None = None


class _Session(Struct):
    id: str
    status: str | None = None
    expires_at: Seconds | None = None
    payment_intent: Raw = NULL  # an id or the whole object


class _Dispute(Struct):
    id: str
    status: str
    amount: int
    created: Seconds
    balance_transactions: list[_Timed] = []


class _Object(Struct):
    object: str
    livemode: bool | None = None


def facts_of(raw: Raw, reading: Reading) -> Facts:
    """The facts that an object states, with those of the objects that it contains; none if it can belong to no
    donation.

    Raises:
        CannotApply, msgspec.MsgspecError: it has an unexpected shape. The message contains no value of it.
    """
    kind = msgspec.json.decode(raw, type=_Object)
    if kind.object not in EVENT_TYPES:
        raise msgspec.ValidationError("an unknown type of object")
    livemode = reading.livemode if kind.livemode is None else kind.livemode
    envelope = {"id": "evt_read", "type": EVENT_TYPES[kind.object], "created": reading.at, "livemode": livemode}
    account = {"account": reading.account} if reading.account else {}
    body = msgspec.json.encode({**envelope, **account, "data": {"object": raw}})
    facts = read(body, livemode=reading.livemode, hash_key=reading.hash_key).facts or {}
    if facts and (correct := CORRECTIONS.get(kind.object)):
        correct(raw, facts, reading)
    return facts


def _correct_payment_intent(raw: Raw, facts: Facts, reading: Reading) -> None:
    intent = msgspec.json.decode(raw, type=_PaymentIntent)
    known = facts[Family.PAYMENT_INTENT][intent.id]
    if intent.last_payment_error != NULL:
        known[FactName.FAILED] = reading.at
    if FactName.CANCELED in known and intent.canceled_at is not None:
        known[FactName.CANCELED] = min(intent.canceled_at, reading.at)
    charge = intent.latest_charge
    if not isinstance(charge, _Charge):
        return
    _add_charge(charge, facts, reading)
    if charge.status == "pending":
        named = {FactName.SEEN: reading.at, FactName.PAYMENT_INTENT: [reading.at, intent.id]}
        facts.setdefault(Family.CHARGE, {})[charge.id] = named
    moved_at = _moved_at(charge, reading)
    if FactName.RECEIVED in known and moved_at is not None:
        known |= {FactName.RECEIVED_FIRST: moved_at, FactName.RECEIVED_LAST: [moved_at, 1]}


def _correct_charge(raw: Raw, facts: Facts, reading: Reading) -> None:
    _add_charge(msgspec.json.decode(raw, type=_Charge), facts, reading)


def _add_charge(charge: _Charge, facts: Facts, reading: Reading) -> None:
    """Corrects a charge's facts, and adds those of the refunds that it contains.

    Stripe sends no event that is handled here before a charge has succeeded or failed. Until then it states nothing.
    """
    charges = facts.get(Family.CHARGE, {})
    if charge.status == "pending":
        charges.pop(charge.id, None)
    if (known := charges.get(charge.id)) is None:  # or it is the connected account's side of a destination charge
        return
    moved_at = _moved_at(charge, reading)
    if FactName.CAPTURED in known and moved_at is not None:
        known |= {FactName.CAPTURED: moved_at, FactName.CAPTURES: {str(value(known, FactName.TAKEN)): moved_at}}
        if moved_at > charge.created:  # it was an authorisation or a bank debit until then
            known[FactName.NOT_TAKEN] = charge.created
    if FactName.FAILED in known:
        _correct_failure(charge, known, moved_at, reading)
    if charge.refunds and not charge.refunds.has_more:
        _add_refunds(charge, charge.refunds.data, facts, reading)


def _correct_failure(charge: _Charge, known: ObjectFacts, moved_at: int | None, reading: Reading) -> None:
    """A failure that took money back says so by its balance transaction; any other one needs no time of its own."""
    reversal = charge.failure_balance_transaction
    if not isinstance(reversal, _Timed):
        known[FactName.FAILED] = min(charge.created, reading.at)
        return
    known[FactName.FAILED] = min(reversal.created, reading.at)
    amount = value(known, FactName.TAKEN) or value(known, FactName.AMOUNT)
    if moved_at is not None and amount:  # its snapshot does not contain any more that it had taken money
        known |= {FactName.TAKEN: [moved_at, amount], FactName.CAPTURED: moved_at}
        known[FactName.CAPTURES] = {str(amount): moved_at}


def _moved_at(charge: _Charge, reading: Reading) -> int | None:
    """When the charge's money moved, by its balance transaction; None where that is not known."""
    transaction = charge.balance_transaction
    if not isinstance(transaction, _Timed):
        return None
    return transaction.created if charge.created <= transaction.created <= reading.at else None


def _add_refunds(charge: _Charge, refunds: list[Raw], facts: Facts, reading: Reading) -> None:
    """All refunds of a charge. What its `amount_refunded` counts beyond them is the released part of an authorisation:
    it counted that much when it was captured. When a refund failed is known from the list of refunds only."""
    returned = 0
    for raw in refunds:
        refund = msgspec.json.decode(raw, type=_Refund)
        if refund.status not in VOID_REFUNDS:
            returned += refund.amount
            merge_into(facts, facts_of(raw, reading))
    known = facts[Family.CHARGE][charge.id]
    if FactName.RETURNED_LEAST in known and charge.amount_refunded is not None:
        known[FactName.RETURNED_LEAST] = max(0, charge.amount_refunded - returned)


def _correct_refund(raw: Raw, facts: Facts, reading: Reading) -> None:
    refund = msgspec.json.decode(raw, type=_Refund)
    known = facts[Family.REFUND][refund.id]
    if FactName.FAILED in known and isinstance(refund.failure_balance_transaction, _Timed):
        known[FactName.FAILED] = min(refund.failure_balance_transaction.created, reading.at)


def _correct_dispute(raw: Raw, facts: Facts, reading: Reading) -> None:
    """Since when it has had its status: one that takes money since the money was withdrawn, any other one since it came
    back."""
    dispute = msgspec.json.decode(raw, type=_Dispute)
    known = facts[Family.DISPUTE][dispute.id]
    moved = sorted((each.created, each.amount) for each in dispute.balance_transactions)
    withdrawn = [at for at, amount in moved if amount < 0]
    returned_at = max((at for at, amount in moved if amount > 0), default=None)
    [kept] = known[FactName.HISTORY].values()
    if value(known, FactName.STAGE)[0] in TAKES_MONEY:
        since = next((at for at in withdrawn if returned_at is None or at >= returned_at), dispute.created)
    else:
        since = reading.at if returned_at is None else returned_at
        if withdrawn:
            taken = {"first": [-withdrawn[0], dispute.amount], "last": [withdrawn[0], dispute.amount]}
            known[FactName.HISTORY]["needs_response"] = taken
    kept["first"] = [-min(since, reading.at), dispute.amount]


def _correct_session(raw: Raw, facts: Facts, reading: Reading) -> None:
    """A session stays `paid` whatever becomes of the money: of that its PaymentIntent says more. Stripe sends no event
    about a session that is still open."""
    session = msgspec.json.decode(raw, type=_Session)
    if session.status == "open":
        facts.clear()
        return
    if (known := facts.get(Family.SESSION, {}).get(session.id)) is not None:
        known.pop(FactName.PAID, None)
        known.pop(FactName.PAID_LAST, None)
        if FactName.EXPIRED in known and session.expires_at is not None:
            known[FactName.EXPIRED] = min(session.expires_at, reading.at)
    if bytes(session.payment_intent).startswith(b"{"):
        merge_into(facts, facts_of(session.payment_intent, reading))


CORRECTIONS: dict[str, Callable[[Raw, Facts, Reading], None]] = {
    "payment_intent": _correct_payment_intent,
    "charge": _correct_charge,
    "refund": _correct_refund,
    "dispute": _correct_dispute,
    "checkout.session": _correct_session,
}

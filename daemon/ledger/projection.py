"""Pure: how donations are derived from merged facts (SPEC 3).

`donations` derives everything that is shown. STATUSES contains the order of precedence of the statuses. In this file
`objects` are the Stripe objects of one donation, and `known` is the facts of one object.
"""

from collections.abc import Callable

import msgspec

from daemon.ledger import payment_times, refunds
from daemon.ledger.donation import Donation, Status
from daemon.ledger.donation_objects import Objects, Subscriptions, by_donation
from daemon.ledger.facts import RANKS, STAGE_OF_UNKNOWN, FactName, Facts, Family, ObjectFacts, value

# The version of the rules in this file and in facts.py. It rises when a stored row would be derived differently, with
# a migration that lists the rows of older rules (SPEC 9, rebuild).
RULES_VERSION = 3  # 2: the journal's entries; 3: consent

# The ranks of the statuses in which Stripe has taken the disputed amount from the charity.
TAKES_MONEY = frozenset(
    {
        STAGE_OF_UNKNOWN,
        *(
            RANKS[status]
            for status in ("needs_response", "under_review", "appeal_needs_response", "appeal_under_review", "lost")
        ),
    }
)
# The ranks of the statuses in which a donation is DISPUTED: an inquiry takes no money.
IS_DISPUTED = TAKES_MONEY | {RANKS["warning_needs_response"], RANKS["warning_under_review"]}


def donation_ids(facts: Facts) -> set[str]:
    """The ids that a donation of these facts has, or may have had before more of them were known."""
    return {id_ for family in (Family.PAYMENT_INTENT, Family.SESSION, Family.CHARGE) for id_ in facts.get(family, ())}


def is_one_donation(facts: Facts, id_: str) -> bool:
    """Whether these are the facts of one PaymentIntent, and of sessions and charges that name it."""
    return facts.get(Family.PAYMENT_INTENT, {}).keys() == {id_} and all(
        value(known, FactName.PAYMENT_INTENT) == id_
        for family in (Family.SESSION, Family.CHARGE)
        for known in facts.get(family, {}).values()
    )


def subscriptions(facts: Facts) -> set[str]:
    """The ids of the subscriptions from which donations in these facts can take their ticket.

    Only an invoice that a PaymentIntent or charge names leads to one.
    """
    if Family.INVOICE not in facts:  # nearly always
        return set()
    return {id_ for objects in by_donation(facts, {}).values() for id_, _ in objects.members[Family.SUBSCRIPTION]}


def subscriptions_of(facts: Facts, donation: str) -> list[str]:
    """The id of the subscription that a donation is a payment of; none for a single donation."""
    return [id_ for id_, _ in by_donation(facts, {})[donation].members[Family.SUBSCRIPTION]]


def donations(facts: Facts, subscriptions: Subscriptions | None = None) -> list[Donation]:
    """All donations in these facts, in the order of their ids.

    It is usually one. Facts of several donations are kept together if one session has named several PaymentIntents, and
    the facts of an invoice that is not paid yet make no donation.

    Args:
        subscriptions: the facts of the subscriptions that the invoices name.
    """
    return [derive(id_, objects) for id_, objects in sorted(by_donation(facts, subscriptions or {}).items())]


def derive(id_: str, objects: Objects) -> Donation:
    """The donation with this id, which consists of these objects."""
    amount, currency = _amount(objects)
    refunded, refunded_at = refunds.refunded(objects, amount)
    paid_at = payment_times.paid_at(objects)
    is_paid = paid_at is not None
    return Donation(
        id=id_,
        ticket=objects.value("ticket"),
        status=status_of(objects, Money(amount, refunded, paid_at)),
        amount=amount,
        currency=currency,
        refunded=refunded,
        disputed=_disputed(objects, amount, currency, refunded),
        created_at=_created_at(objects),
        paid_at=paid_at,
        refunded_at=refunded_at,
        last_name=objects.value("last_name") if is_paid else None,
        country=objects.value("country") if is_paid else None,
        email_hash=objects.value("email_hash"),
        session_id=objects.members[Family.SESSION][0][0] if objects.members[Family.SESSION] else None,
        charge_id=objects.members[Family.CHARGE][0][0] if objects.members[Family.CHARGE] else None,
        account=_account(objects),
        subscription=objects.members[Family.SUBSCRIPTION][0][0] if objects.members[Family.SUBSCRIPTION] else None,
        consent=_consent(objects),
    )


# A consent ends for good when it is withdrawn, and when the donor is erased.
ENDS_CONSENT = frozenset({FactName.CONSENT_WITHDRAWN, FactName.ERASED})


def _consent(objects: Objects) -> bool:
    """Whether the donor's name may be shown (SPEC 3, consent)."""
    if not objects.value("consent"):
        return False
    of_subscriptions = [known for _, known in objects.members[Family.SUBSCRIPTION]]
    return all(ENDS_CONSENT.isdisjoint(known) for known in (*objects.every, *of_subscriptions))


def _account(objects: Objects) -> str | None:
    accounts = [known[FactName.ACCOUNT] for known in objects.every if FactName.ACCOUNT in known]
    account: str | None = max(accounts)[1] if accounts else None
    return account


def _amount(objects: Objects) -> tuple[int | None, str | None]:
    """The amount, and the currency of the object that it comes from."""
    source, amount = objects.winning_object("amount")
    for known, name in amount_sources(objects)[1:]:  # the larger one, if charge and PaymentIntent differ
        amount = max(amount, value(known, name))
    return amount, value(source, FactName.CURRENCY) or objects.value("currency")


def amount_sources(objects: Objects) -> list[tuple[ObjectFacts, FactName]]:
    """The objects that state how much was taken, with the name of their fact: the first charge that states it, and the
    PaymentIntent, if both are in one currency."""
    charges = [known for _, known in objects.members[Family.CHARGE] if FactName.TAKEN in known][:1]
    intents = [known for _, known in objects.members[Family.PAYMENT_INTENT] if FactName.RECEIVED in known]
    if charges and intents:
        currency = value(charges[0], FactName.CURRENCY)
        intents = [known for known in intents if value(known, FactName.CURRENCY) in (currency, None)]
    return [*((known, FactName.TAKEN) for known in charges), *((known, FactName.RECEIVED) for known in intents)]


def _created_at(objects: Objects) -> int:
    named: list[int] = [
        created
        for family in (Family.SESSION, Family.PAYMENT_INTENT)
        if (created := objects.first(family, FactName.CREATED)) is not None
    ]
    if named:
        return min(named)
    charged: int | None = objects.first(Family.CHARGE, FactName.CREATED)
    if charged is not None:
        return charged
    return min((known[FactName.SEEN] for known in objects.every if FactName.SEEN in known), default=0)


def _disputed(objects: Objects, amount: int | None, currency: str | None, refunded: int) -> int:
    total = 0
    for _, dispute in objects.members[Family.DISPUTE]:
        stage, disputed, _ = value(dispute, FactName.STAGE) or (None, 0, None)
        if stage in TAKES_MONEY:
            in_our_currency = value(dispute, FactName.CURRENCY) in (currency, None)
            total += disputed if in_our_currency else amount or 0
    return total if amount is None else max(0, min(total, amount - refunded))


class Money(msgspec.Struct, frozen=True):
    """The figures that a status depends on, in minor units."""

    amount: int | None
    refunded: int
    paid_at: int | None

    @property
    def is_refunded(self) -> bool:
        """Whether the whole amount was paid and refunded."""
        paid = self.paid_at is not None and self.amount is not None
        return paid and self.refunded >= (self.amount or 0) and self.refunded > 0


def _is_disputed(objects: Objects, _money: Money) -> bool:
    return any(
        (value(dispute, FactName.STAGE) or [None])[0] in IS_DISPUTED for _, dispute in objects.members[Family.DISPUTE]
    )


def _is_expired(objects: Objects, _money: Money) -> bool:
    return objects.states_any(Family.SESSION, name=FactName.EXPIRED) or objects.states_any(
        Family.PAYMENT_INTENT, name=FactName.CANCELED
    )


def _is_failed(objects: Objects, _money: Money) -> bool:
    return objects.states_any(Family.PAYMENT_INTENT, Family.SESSION, Family.CHARGE, name=FactName.FAILED)


StatusRule = Callable[[Objects, Money], bool]

# A donation has the first of these statuses whose rule is true. The sentences are shown in the diagram.
STATUSES: tuple[tuple[Status, str, StatusRule], ...] = (
    (Status.DISPUTED, "a dispute, an inquiry or an appeal is open, or a dispute was lost", _is_disputed),
    (Status.REFUNDED, "paid, and the whole amount was refunded", lambda _objects, money: money.is_refunded),
    (Status.PAID, "the payment succeeded", lambda _objects, money: money.paid_at is not None),
    (Status.EXPIRED, "the session expired, or the PaymentIntent was canceled", _is_expired),
    (Status.FAILED, "an attempt to pay failed", _is_failed),
    (Status.CREATED, "nothing of this has happened yet", lambda _objects, _money: True),
)


def status_of(objects: Objects, money: Money) -> Status:
    """The status of a donation with these objects and these figures."""
    return next(status for status, _sentence, rule in STATUSES if rule(objects, money))

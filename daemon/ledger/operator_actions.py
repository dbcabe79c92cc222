"""Pure: what an operator does to a donation, as facts that merge like Stripe's, with a row for the audit log.

The facts of an action are kept on the donation's own objects, so they follow a session into the donation of its
PaymentIntent.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from daemon.ledger import kept_facts, projection
from daemon.ledger.facts import SHARED, FactName, Facts, Family, ObjectFacts, object_ids, owners, value

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ACTOR_LIMIT = 64  # characters of an operator's name


@dataclass(frozen=True)
class OperatorAction:
    """One action of an operator: who did what to which donation and when, and the facts that it states.

    `at_us` is in Unix microseconds; `detail` is the ticket of an assignment, else empty.
    """

    action: str
    donation: str
    detail: str
    actor: str
    at_us: int
    facts: Facts

    @property
    def at(self) -> datetime:
        """The time of the action, in UTC."""
        return EPOCH + timedelta(microseconds=self.at_us)

    @property
    def ids(self) -> set[str]:
        """The objects that it is about."""
        return object_ids(self.facts)


def assign(facts: Facts, donation: str, ticket: str, *, actor: str, at_us: int) -> OperatorAction:
    """Moves a donation to a ticket, whatever Stripe states; the newest assignment counts (SPEC 3).

    Args:
        facts: the stored facts of the donation.
        donation: its id, or that of any of its objects.

    Raises:
        KeyError: the facts do not contain it.
    """
    id_ = owners(facts)[donation]
    return OperatorAction(
        "assign", id_, ticket, actor, at_us, {_family(facts, id_): {id_: {FactName.ASSIGNED: [at_us, ticket]}}}
    )


def erase(facts: Facts, donation: str, *, actor: str, at_us: int) -> OperatorAction:
    """Erases a donor's data from a donation permanently: every object that could state it again is marked (SPEC 7).

    Arguments and errors as `assign`; `donation` may also be an invoice that nothing has paid yet.
    """
    objects = kept_facts.donor_objects(facts)
    id_ = donation if donation in objects else owners(facts)[donation]
    marks: Facts = {}
    for family, object_, _ in objects.get(id_, []):
        marks.setdefault(family, {})[object_] = {FactName.ERASED: at_us}
    return OperatorAction("erase", id_, "", actor, at_us, marks)


def withdraw_consent(facts: Facts, donation: str, *, actor: str, at_us: int) -> OperatorAction:
    """Ends the showing of a donor's name; no amount changes, and no later event restores it (SPEC 3, consent).

    For a monthly donation it holds for all donations of its subscription, because the donor consented once for all of
    them. Arguments and errors as `assign`.
    """
    id_ = owners(facts)[donation]
    withdrawn: ObjectFacts = {FactName.CONSENT_WITHDRAWN: at_us}
    stated: Facts = {_family(facts, id_): {id_: withdrawn}}
    for subscription in projection.subscriptions_of(facts, id_):
        stated[Family.SUBSCRIPTION] = {subscription: dict(withdrawn)}
    return OperatorAction("withdraw", id_, "", actor, at_us, stated)


def donations_with(facts: Facts, email_hashes: Collection[str]) -> set[str]:
    """The ids of the donations (and unpaid invoices) among these whose objects contain one of the e-mail hashes."""
    return {
        donation
        for donation, objects in kept_facts.donor_objects(facts).items()
        if any(value(known, FactName.EMAIL_HASH) in email_hashes for _, _, known in objects)
    }


def _family(facts: Facts, id_: str) -> Family:
    return next(family for family, objects in facts.items() if id_ in objects and family not in SHARED)

"""Pure: what an operator does to a donation, as facts that merge like Stripe's, with a line for the record.

An act's facts are kept on the donation's own objects, so they follow a session into its PaymentIntent's donation.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from daemon.ledger import projection
from daemon.ledger.facts import FactName, Facts, Family, object_ids, owners, value

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ACTOR_LIMIT = 64  # characters of an operator's name


@dataclass(frozen=True)
class Act:
    """One deed of an operator: who did what to which donation and when, and the facts that makes.

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
        """When, in UTC."""
        return EPOCH + timedelta(microseconds=self.at_us)

    @property
    def ids(self) -> set[str]:
        """The objects that it is about."""
        return object_ids(self.facts)


def assign(facts: Facts, donation: str, ticket: str, *, actor: str, at_us: int) -> Act:
    """Moves a donation to a ticket, before everything Stripe says; the newest assignment stands (SPEC 3).

    Args:
        facts: what the ledger holds of the donation.
        donation: its id, or that of any of its objects.

    Raises:
        KeyError: the facts do not hold it.
    """
    id_ = owners(facts)[donation]
    return Act("assign", id_, ticket, actor, at_us, {_family(facts, id_): {id_: {FactName.ASSIGNED: [at_us, ticket]}}})


def erase(facts: Facts, donation: str, *, actor: str, at_us: int) -> Act:
    """Takes a donor's data from a donation for good: every object that could bring it back is marked (SPEC 7).

    Arguments and errors as `assign`; `donation` may also be an invoice that nothing has paid yet.
    """
    objects = projection.personal(facts)
    id_ = donation if donation in objects else owners(facts)[donation]
    marks: Facts = {}
    for family, object_, _ in objects.get(id_, []):
        marks.setdefault(family, {})[object_] = {FactName.ERASED: at_us}
    return Act("erase", id_, "", actor, at_us, marks)


def donations_with(facts: Facts, email_hashes: Collection[str]) -> set[str]:
    """The ids of the donations (and unpaid invoices) among these whose objects hold one of the e-mail hashes."""
    return {
        donation
        for donation, objects in projection.personal(facts).items()
        if any(value(known, FactName.EMAIL_HASH) in email_hashes for _, _, known in objects)
    }


def _family(facts: Facts, id_: str) -> Family:
    return next(family for family, objects in facts.items() if id_ in objects)

"""Collects what one event states, as facts (facts.py).

A newest fact is written as the pair [the event's `created`, value], a first one as the event's `created`.
"""

from collections.abc import Callable, Mapping

from msgspec import Raw, Struct

from daemon.ledger import privacy
from daemon.ledger.events.fields import Metadata, Reference, id_of, ticket_of
from daemon.ledger.facts import SHARED, FactName, Facts, Family, ObjectFacts

# How Stripe's ids of a family begin. The key of a row is only the id, so one that begins like another family's is
# rejected. A beginning that is not listed is accepted: such an id may name objects of several families. They are kept
# in one row, except a subscription, which has its own (`subscription_key`).
FAMILY_OF_PREFIX = {
    "pi": Family.PAYMENT_INTENT,
    "cs": Family.SESSION,
    "ch": Family.CHARGE,
    "py": Family.CHARGE,
    "re": Family.REFUND,
    "pyr": Family.REFUND,
    "dp": Family.DISPUTE,
    "du": Family.DISPUTE,
    "in": Family.INVOICE,
    "sub": Family.SUBSCRIPTION,
}


class UnknownValue(ValueError):
    """A value that cannot be interpreted; the message does not repeat it."""


class Attempt(Struct, frozen=True):
    """An attempt to pay, as it is counted for signals of fraud (SPEC 11).

    A failed one may name a person whose card was stolen: its hash is counted outside the ledger, and is no fact.

    Args:
        account: the connected account, '' for the charity's own.
        ticket, country, email_hash: None where the event names none.
    """

    failed: bool
    account: str
    ticket: str | None
    country: str | None
    email_hash: str | None = None


class EventFacts:
    """Collects the facts of one event: everything that it states was so at the event's `created`.

    Args:
        type_: of the event, such as `charge.refunded`.
        at: its `created`, in Unix seconds.
        account: the connected account that it is from, or None.
        hash_key: the key of e-mail hashes, or None.
    """

    def __init__(self, type_: str, at: int, account: str | None, hash_key: bytes | None) -> None:
        self.type = type_
        self.at = at
        self.account = account
        self.hash_key = hash_key
        self.facts: Facts = {}
        self.family_of: dict[str, Family] = {}
        self.unknown_status: str | None = None
        self.attempt: Attempt | None = None

    def name(self, family: Family, id_: str) -> ObjectFacts:
        """The facts of one object; naming it is enough to tie its id to this donation.

        Raises UnknownValue for an id that belongs to another family, or that this event gives to objects of two.
        """
        check_family(family, id_)
        if self.family_of.setdefault(id_, family) != family:
            raise UnknownValue("one id names two objects - at `$.id`")
        return self.facts.setdefault(family, {}).setdefault(id_, {} if family in SHARED else {FactName.SEEN: self.at})

    def add(self, family: Family, id_: str, newest: Mapping[FactName, object]) -> ObjectFacts:
        """States facts whose newest value is kept; None and empty values are not stated."""
        known = self.name(family, id_)
        known.update({name: [self.at, value] for name, value in newest.items() if value not in (None, "")})
        if self.account:
            known[FactName.ACCOUNT] = [self.at, self.account]
        return known

    def link(self, family: Family, reference: Reference) -> str | None:
        """The id that an expandable field names, tied to this donation."""
        id_ = id_of(reference)
        if id_:
            self.name(family, id_)
        return id_ or None

    def set_invoice(self, family: Family, id_: str, invoice: str | None) -> None:
        """A PaymentIntent or a charge pays this invoice."""
        if invoice:
            self.name(family, id_)[FactName.INVOICE] = [self.at, invoice]

    def reduce_donor(self, details: Raw) -> privacy.Donor:
        """What may be kept of a donor."""
        return privacy.reduce_details(details, self.hash_key)

    def set_attempt(
        self, metadata: Metadata | None, country: str | None, email_hash: str | None, *, failed: bool
    ) -> None:
        """The event reports an attempt to pay."""
        self.attempt = Attempt(failed, self.account or "", ticket_of(metadata), country, email_hash)


def check_family(family: Family, id_: str) -> None:
    """Raises UnknownValue for an id that begins as the ids of another family do."""
    if FAMILY_OF_PREFIX.get(id_.partition("_")[0], family) != family:
        raise UnknownValue("an id is of another kind of object - at `$.id`")


def subscription_key(id_: str) -> str:
    """The id that a subscription is kept by. One that does not begin as Stripe's ids of subscriptions do gets `sub_`
    before it: it may be the id of a donation or an invoice too, and none of these begins so.

    Raises UnknownValue as check_family.
    """
    check_family(Family.SUBSCRIPTION, id_)
    return id_ if id_.partition("_")[0] in FAMILY_OF_PREFIX else f"sub_{id_}"


# Adds what an event's object states. The result is None, or the reason why the event changes nothing.
Handler = Callable[[EventFacts, Raw], str | None]

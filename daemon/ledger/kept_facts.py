"""Pure: which facts are kept in a donation's row. Some must not be kept (`redact`, SPEC 7), and some need not be there
(`split_attempts`).
"""

from typing import Any

from daemon.ledger.donation_objects import SORT_KEY, by_donation
from daemon.ledger.facts import DONOR_FIELDS, FactName, Facts, Family, ObjectFacts, owners, value


def donor_objects(facts: Facts) -> dict[str, list[tuple[Family, str, ObjectFacts]]]:
    """Donation id -> its objects that can contain facts about the donor: family, id and facts.

    An invoice whose payment is not known yet has an entry under its own id.
    """
    owner = owners(facts)
    found: dict[str, list[tuple[Family, str, ObjectFacts]]] = {}
    for family in (Family.PAYMENT_INTENT, Family.SESSION, Family.CHARGE):
        for id_, known in facts.get(family, {}).items():
            found.setdefault(owner[id_], []).append((family, id_, known))
    unpaid = dict(facts.get(Family.INVOICE, {}))
    for donation, objects in by_donation(facts, {}).items():
        for id_, known in objects.members[Family.INVOICE]:
            found.setdefault(donation, []).append((Family.INVOICE, id_, known))
            unpaid.pop(id_, None)
    for id_, known in unpaid.items():  # one may have the id of a donation
        found.setdefault(id_, []).append((Family.INVOICE, id_, known))
    return found


def redact(facts: Facts) -> Facts:
    """Facts without the donor facts that must not be kept (SPEC 7).

    1. Those of failed charges: people who test stolen cards use other people's names. This must not depend on other
       facts, because what is removed here cannot be added again.
    2. Those of each donation whose donor was erased, so that a redelivered event cannot bring them back. All objects of
       such a donation are marked as erased; an object stays so if it is later found to belong to another donation.
    """
    for charge in facts.get(Family.CHARGE, {}).values():
        if FactName.FAILED in charge:
            for name in DONOR_FIELDS:
                charge.pop(name, None)
    marks: list[Any] = [
        known[FactName.ERASED] for members in facts.values() for known in members.values() if FactName.ERASED in known
    ]
    if not marks:
        return facts
    at: int = min(marks)
    erased = {
        id_
        for objects in donor_objects(facts).values()
        if any(FactName.ERASED in known for _, _, known in objects)
        for _, id_, _ in objects
    }
    return {
        family: {
            id_: _without_donor(known, at) if FactName.ERASED in known or id_ in erased else known
            for id_, known in objects.items()
        }
        for family, objects in facts.items()
    }


def _without_donor(known: ObjectFacts, at: int) -> ObjectFacts:
    return {FactName.ERASED: at, **{name: fact for name, fact in known.items() if name not in DONOR_FIELDS}}


# The facts of a failed charge that can be shown, if no later charge of its PaymentIntent states them.
SUPPLIED = (
    FactName.AMOUNT,
    FactName.RETURNED,
    FactName.CURRENCY,
    FactName.CREATED,
    FactName.TICKET,
    FactName.INVOICE,
    FactName.ACCOUNT,
)
# A charge with one of these facts is always needed, whatever other charges state: it took money, was refunded, or was
# reported as fraud.
STATES_MONEY = frozenset({FactName.TAKEN, FactName.REFUND_EVENTS, FactName.REFUND_SEEN, FactName.WARNINGS})
# So is a charge about which an operator or the donor decided something.
STATED_BY_PEOPLE = frozenset({FactName.ASSIGNED, FactName.CONSENT_WITHDRAWN})


def split_attempts(facts: Facts) -> tuple[Facts, dict[str, ObjectFacts]]:
    """Facts without the failed charges that cannot change the donation any more, and these charges.

    This keeps the facts of a PaymentIntent small: a person who tests stolen cards makes a thousand attempts. In the
    order of SORT_KEY a charge that never took money comes after each later charge. So it is needed only for a fact that
    no later failed charge states, and the later charge keeps its facts whatever happens to it: the result does not
    depend on the order of events. The facts of the removed charges are stored elsewhere, and are read again when an
    event names the charge, or gives another place to a charge that failed (`lost_attempts`).
    """
    charges = facts.get(Family.CHARGE, {})
    if len(charges) < 2:
        return facts, {}
    referenced = {
        value(child, FactName.CHARGE)
        for family in (Family.REFUND, Family.DISPUTE)
        for child in facts.get(family, {}).values()
    }
    # The id of a foreign charge may be that of another object too, which `owners` ties to the charge's donation.
    referenced.update(id_ for family, members in facts.items() if family != Family.CHARGE for id_ in members)
    removed: dict[str, ObjectFacts] = {}
    stated_by_later: dict[str, set[str]] = {}  # by PaymentIntent
    for id_, known in sorted(charges.items(), key=SORT_KEY[Family.CHARGE], reverse=True):
        intent = value(known, FactName.PAYMENT_INTENT)
        if intent is None or id_ in referenced or not _is_failed_attempt(known):
            continue
        by_later = stated_by_later.setdefault(intent, set())
        stated = {name for name in SUPPLIED if name in known}
        if STATED_BY_PEOPLE.isdisjoint(known) and FactName.CREATED in stated and stated <= by_later:
            removed[id_] = known
        by_later |= stated
    if not removed:
        return facts, {}
    kept = {id_: known for id_, known in charges.items() if id_ not in removed}
    return {**facts, Family.CHARGE: kept}, removed


Places = dict[str, tuple[str | None, int | None]]


def failed_places(facts: Facts) -> Places:
    """Id -> PaymentIntent and time of each charge that has failed: its place among the charges of a donation."""
    charges = facts.get(Family.CHARGE, {})
    return {id_: _place(known) for id_, known in charges.items() if FactName.FAILED in known}


def lost_attempts(places: Places, facts: Facts) -> set[str]:
    """The PaymentIntents of charges that have other places in these facts: failed charges that were removed because of
    them may be needed again. At Stripe the place of a charge never changes."""
    return {place[0] for id_, place in places.items() if place[0] and _place(facts[Family.CHARGE][id_]) != place}


def _place(charge: ObjectFacts) -> tuple[str | None, int | None]:
    return value(charge, FactName.PAYMENT_INTENT), value(charge, FactName.CREATED)


def _is_failed_attempt(charge: ObjectFacts) -> bool:
    return value(charge, FactName.STATUS) == "failed" and STATES_MONEY.isdisjoint(charge)

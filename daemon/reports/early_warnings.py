"""Early fraud warnings: what an issuer of cards reported of a charge, and what it costs to wait (SPEC 11).

Stripe passes them on in `radar.early_fraud_warning.*`. They are facts of their charge, so they are read from the facts
of its donation; `stripe_events.py` shows what is kept of them.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

from msgspec import Struct

from daemon.ledger import money
from daemon.ledger.donation import Status
from daemon.ledger.facts import FactName, Facts, Family, owners
from sql import load
from sql.database import Database

# Of the warnings that were neither refunded nor disputed at first, so many become disputes.
BECOME_DISPUTES = "about four of five such warnings become disputes"


class State(StrEnum):
    """Whether a warning waits for a decision, and what ended it otherwise."""

    OPEN = "open"
    REFUNDED = "refunded"
    DISPUTED = "disputed"
    CLOSED = "closed"  # Stripe reports that nothing can be done any more


class WarnedRow(NamedTuple):
    """A row of warned_donations.sql."""

    id: str
    ticket: str | None
    status: Status
    amount_minor: int | None
    currency: str | None
    refunded_minor: int


class EarlyWarning(Struct, frozen=True):
    """An early fraud warning and its donation. Amounts are in minor units of `currency`, times in Unix seconds.

    Args:
        kind: what the issuer believes, in Stripe's words: `made_with_stolen_card`, `unauthorized_use_of_card`, ….
        cost_minor: what is not refunded yet: it is lost by a refund now, and, with Stripe's fee, by a dispute later.
            None where the amount is not known yet.
    """

    id: str
    made_at: int
    kind: str
    state: State
    donation: str
    charge: str
    ticket: str | None
    currency: str | None
    cost_minor: int | None

    def reason(self, dispute_fee: str | None) -> str:
        """Why it is a signal, and what each decision costs, as a sentence.

        Args:
            dispute_fee: what Stripe charges for a dispute, for people, or None if that is not configured.
        """
        fee = f"a fee of {dispute_fee}" if dispute_fee else "Stripe's fee for a dispute"
        if self.cost_minor is None or self.currency is None:
            cost = f"a refund costs the donation, a dispute costs {fee} as well"
        else:
            amount = money.display(self.cost_minor, self.currency)
            cost = f"a refund now costs {amount}, a dispute later costs {amount} and {fee}"
        return f"The card's issuer reported {self.kind} for charge {self.charge}; {cost}; {BECOME_DISPUTES}."


async def read_warnings(database: Database) -> list[EarlyWarning]:
    """Every early fraud warning, the newest first."""
    rows: list[tuple[str, Facts]] = [(row[0], row[1]) for row in await database.fetch(load("warned_facts"))]
    named = {id_ for _, facts in rows for id_ in warned_donations(facts)}
    donations = await database.fetch(load("warned_donations"), {"ids": sorted(named)}) if named else []
    return early_warnings((facts for _, facts in rows), map(WarnedRow._make, donations))


def warned_donations(facts: Facts) -> set[str]:
    """The ids of the donations in these facts that have a warning."""
    owner = owners(facts)
    return {owner[id_] for id_, charge in facts.get(Family.CHARGE, {}).items() if FactName.WARNINGS in charge}


def early_warnings(facts: Iterable[Facts], donations: Iterable[WarnedRow]) -> list[EarlyWarning]:
    """The warnings in these facts, the newest first; those of donations that are not given are left out."""
    by_id = {donation.id: donation for donation in donations}
    found = [warning for each in facts for warning in _warnings_of(each, by_id)]
    return sorted(found, key=lambda warning: (-warning.made_at, warning.id))


def _warnings_of(facts: Facts, donations: dict[str, WarnedRow]) -> Iterable[EarlyWarning]:
    owner = owners(facts)
    disputed = {owner[id_] for id_ in facts.get(Family.DISPUTE, {})}
    for charge, known in facts.get(Family.CHARGE, {}).items():
        if (donation := donations.get(owner[charge])) is None:
            continue
        for id_, (_at, (is_closed, made_at, kind)) in known.get(FactName.WARNINGS, {}).items():
            amount = donation.amount_minor
            yield EarlyWarning(
                id=id_,
                made_at=made_at,
                kind=kind,
                state=_state(donation, is_disputed=donation.id in disputed, is_closed=bool(is_closed)),
                donation=donation.id,
                charge=charge,
                ticket=donation.ticket,
                currency=donation.currency,
                cost_minor=None if amount is None else amount - donation.refunded_minor,
            )


def _state(donation: WarnedRow, *, is_disputed: bool, is_closed: bool) -> State:
    if is_disputed:
        return State.DISPUTED
    if donation.status == Status.REFUNDED:
        return State.REFUNDED
    return State.CLOSED if is_closed else State.OPEN

"""Early fraud warnings: what an issuer of cards reported of a charge, and what it costs to wait (SPEC 11).

Stripe passes them on in `radar.early_fraud_warning.*`. They are facts of their charge, so they are read from the facts
of its donation; `daemon/ledger/events/reversals.py` shows what is kept of them.
"""

from collections.abc import Iterable, Set
from enum import StrEnum
from typing import NamedTuple

from msgspec import Struct

from daemon.ledger import audit, money
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
    DISMISSED = "dismissed"  # an operator has examined it


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
    if not named:
        return []
    donations = await database.fetch(load("warned_donations"), {"ids": sorted(named)})
    dismissed = {str(id_) for (id_,) in await database.fetch(load("dismissed_warnings"))}
    return early_warnings((facts for _, facts in rows), map(WarnedRow._make, donations), dismissed)


async def find_warning(database: Database, id_: str) -> EarlyWarning | None:
    """The early fraud warning with this id."""
    return next((warning for warning in await read_warnings(database) if warning.id == id_), None)


async def dismiss_warning(database: Database, warning: EarlyWarning, *, actor: str) -> bool:
    """Dismisses a warning that an operator has examined, with a row in the audit log. Returns False for one that was
    dismissed before."""
    values = {"id": warning.id, "donation": warning.donation, "actor": actor}
    is_done = bool(await database.fetch(load("dismiss_warning"), values))
    if is_done:
        await audit.chain_quietly(database)
    return is_done


def warned_donations(facts: Facts) -> set[str]:
    """The ids of the donations in these facts that have a warning."""
    owner = owners(facts)
    return {owner[id_] for id_, charge in facts.get(Family.CHARGE, {}).items() if FactName.WARNINGS in charge}


def early_warnings(
    facts: Iterable[Facts], donations: Iterable[WarnedRow], dismissed: Set[str] = frozenset()
) -> list[EarlyWarning]:
    """The warnings in these facts, the newest first; those of donations that are not given are left out.

    Args:
        dismissed: the ids of those that an operator has examined.
    """
    by_id = {donation.id: donation for donation in donations}
    found = [warning for each in facts for warning in _warnings_of(each, by_id, dismissed)]
    return sorted(found, key=lambda warning: (-warning.made_at, warning.id))


def _warnings_of(facts: Facts, donations: dict[str, WarnedRow], dismissed: Set[str]) -> Iterable[EarlyWarning]:
    owner = owners(facts)
    disputed = {owner[id_] for id_ in facts.get(Family.DISPUTE, {})}
    for charge, known in facts.get(Family.CHARGE, {}).items():
        if (donation := donations.get(owner[charge])) is None:
            continue
        for id_, (_at, (is_closed, made_at, kind)) in known.get(FactName.WARNINGS, {}).items():
            amount = donation.amount_minor
            ended = State.CLOSED if is_closed else State.DISMISSED if id_ in dismissed else None
            yield EarlyWarning(
                id=id_,
                made_at=made_at,
                kind=kind,
                state=_state(donation, is_disputed=donation.id in disputed) or ended or State.OPEN,
                donation=donation.id,
                charge=charge,
                ticket=donation.ticket,
                currency=donation.currency,
                cost_minor=None if amount is None else amount - donation.refunded_minor,
            )


def _state(donation: WarnedRow, *, is_disputed: bool) -> State | None:
    """What became of the donation; None if nothing ended its warnings."""
    if is_disputed:
        return State.DISPUTED
    return State.REFUNDED if donation.status == Status.REFUNDED else None

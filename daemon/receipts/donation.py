"""Pure: what mails and receipts need of a donation, derived from its facts."""

from datetime import UTC, datetime
from typing import NamedTuple

from daemon.ledger import kept_facts, projection
from daemon.ledger.facts import FactName, Facts, Family, owners


class PaidDonation(NamedTuple):
    """A donation, as mails and receipts need it.

    Attributes:
        ids: its id, and those that it had before more of it was known.
        kept_minor: what the charity has of it, in minor units: the amount less what was refunded and what disputes have
            taken, as in the ticket's net figure; 0 while nothing is paid, and while the currency is not known.
        has_consent: whether the donor's name is shown.
        is_erased: whether an operator has erased the donor, who is sent nothing then.
    """

    id: str
    ids: frozenset[str]
    kept_minor: int
    currency: str
    paid_at: datetime | None
    session_id: str | None
    invoice: str | None
    account: str | None
    email_hash: str | None
    has_consent: bool
    is_erased: bool

    @classmethod
    def of(cls, facts: Facts, id_: str) -> "PaidDonation | None":
        """The donation that an object belongs to; None if it belongs to none."""
        owner = owners(facts)
        found = next((each for each in projection.donations(facts) if each.id == owner.get(id_)), None)
        if found is None:
            return None
        is_kept = found.paid_at is not None and found.currency is not None
        kept_minor = (found.amount or 0) - found.refunded - found.disputed if is_kept else 0
        objects = kept_facts.donor_objects(facts).get(found.id, [])
        return cls(
            found.id,
            frozenset(each for each in projection.donation_ids(facts) if owner.get(each) == found.id),
            kept_minor,
            found.currency or "",
            None if found.paid_at is None else datetime.fromtimestamp(found.paid_at, UTC),
            found.session_id,
            next((each for family, each, _ in objects if family == Family.INVOICE), None),
            found.account,
            found.email_hash,
            found.consent,
            any(FactName.ERASED in known for _, _, known in objects),
        )

"""Rows of the ledger as they are read, with what they are looked up and compared by."""

from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from daemon.ledger import projection
from daemon.ledger.facts import FactName, Facts, Family, object_ids, upgrade


class FoundRow(NamedTuple):
    """A row of find_stored.sql."""

    root: str
    version: int
    facts: str
    rules: int | None
    entries_digest: int | None


class FoundSubscription(NamedTuple):
    """A row of find_subscriptions.sql."""

    id: str
    version: int
    facts: str


@dataclass
class StoredRow:
    """A row with facts; version 0 for a failed charge that is kept apart from its donation."""

    root: str
    version: int
    facts: Facts
    is_current: bool = False  # whether today's rules derived it
    entries_digest: int | None = None  # of its donations' entries in the journal; None if it is not known

    def __post_init__(self) -> None:
        self.ids = object_ids(self.facts)
        is_one = self.is_current and projection.is_one_donation(self.facts, self.root)
        # The ids, besides `root`, of donations that may be stored with these facts.
        self.other_donations = set() if is_one else projection.donation_ids(self.facts) - {self.root}
        self.subscriptions = projection.subscriptions(self.facts)
        self.is_invoice = self.version > 0 and self.facts.keys() == {Family.INVOICE}

    @classmethod
    def of(cls, row: FoundRow) -> "StoredRow":
        """Decodes a row, and upgrades the facts of one that older rules stored.

        The digest of the entries is stored combined with the row's version: after a release that does not know the
        digest has written another version, it equals no entries' digest.

        A failed charge is stored with the id of its PaymentIntent, because an event may name the charge only.
        """
        facts = msgspec.json.decode(row.facts)
        if row.version == 0:
            intent: Facts = {Family.PAYMENT_INTENT: {facts[FactName.PAYMENT_INTENT][1]: {}}}
            return cls(row.root, 0, {**intent, Family.CHARGE: {row.root: facts}})
        is_current, digest = row.rules == projection.RULES_VERSION, None
        if is_current and row.entries_digest is not None:
            digest = row.entries_digest ^ row.version
        return cls(row.root, row.version, upgrade(facts) if row.rules == 0 else facts, is_current, digest)

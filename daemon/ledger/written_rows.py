"""The rows that record_events.sql writes a batch from, in the form of its parameters."""

import msgspec
from msgspec import Struct, field

from daemon.ledger.donation import Donation
from daemon.ledger.facts import Facts, ObjectFacts


class BaseRow(Struct):
    """A row that a group was derived from, and its version at that time: 0 if it did not exist, None if that does not
    matter. `n` is the group's number, here and below."""

    n: int
    id: str
    version: int | None
    written: bool


class ObjectRow(Struct):
    """A Stripe object, and the row that contains its facts from now on. New: no row contained them."""

    n: int
    id: str
    root: str
    is_new: bool


class PlaceRow(Struct):
    """The place of a donation: the row with its facts, and that row's version (0 for another row)."""

    n: int
    root: str
    version: int
    rules: int
    entries_digest: int | None


class BookedRow(Struct, omit_defaults=True):
    """A donation whose entries are compared with what is booked.

    What differs is booked for `cause`, or for the operator action on the donation `action_on`, which has no id yet.
    """

    n: int
    id: str
    cause: str | None
    action_on: str | None = None


class EntryRow(Struct, omit_defaults=True):
    """An entry of a donation that is compared with what is booked."""

    n: int
    donation: str
    ticket: str
    currency: str
    kind: str
    object: str
    at: int
    amount: int
    cause: str | None
    action_on: str | None = None


class EventRow(Struct, omit_defaults=True):
    """An event. `n` is None for one that changes nothing."""

    n: int | None
    id: str
    type: str
    created: int
    livemode: bool
    error: str | None = None


class ActionRow(Struct):
    """An operator's action."""

    n: int
    at_us: int
    actor: str
    action: str
    donation: str
    detail: str


class BillingRow(Struct):
    """A subscription, or an invoice without a payment; without facts it is deleted."""

    n: int
    id: str
    version: int
    facts: Facts | None


class ChargeRow(Struct):
    """A failed charge that is kept apart from its donation; without facts it is deleted."""

    n: int
    id: str
    payment_intent: str
    facts: ObjectFacts | None


class WrittenRows(Struct):
    """All rows of a batch, by parameter. `donations`, `places` and `facts` belong together."""

    bases: list[BaseRow] = field(default_factory=list)
    objects: list[ObjectRow] = field(default_factory=list)
    donations: list[Donation] = field(default_factory=list)
    places: list[PlaceRow] = field(default_factory=list)
    facts: list[bytes] = field(default_factory=list)  # JSON; empty where another row has the donation's facts
    booked: list[BookedRow] = field(default_factory=list)
    entries: list[EntryRow] = field(default_factory=list)
    events: list[EventRow] = field(default_factory=list)
    billing: list[BillingRow] = field(default_factory=list)
    actions: list[ActionRow] = field(default_factory=list)
    charges: list[ChargeRow] = field(default_factory=list)

    @property
    def are_usual(self) -> bool:
        """Whether a shorter statement writes them: events, billing rows and donations, of which none goes or takes over
        another's."""
        if self.actions or self.charges or not all(row.is_new for row in self.objects):
            return False
        return {row.id for row in self.bases if row.written} <= {donation.id for donation in self.donations}

    def params(self) -> list[str]:
        """The parameters in their order: those that each statement has come first."""
        arrays = (
            *(self.bases, self.objects, self.donations, self.places, self.booked, self.entries, self.events),
            *(self.billing, self.actions, self.charges),
        )
        texts = [msgspec.json.encode(array).decode() for array in arrays]
        texts.insert(FACTS, b"\n".join(self.facts).decode())
        return texts


FACTS = 4  # their place among the parameters

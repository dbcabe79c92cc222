"""The journal compared with the facts: sums per donation, totals per ticket, and whether it is complete (SPEC 9)."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from daemon.ledger import journal, projection
from daemon.ledger.donation import Donation
from daemon.ledger.facts import Facts
from daemon.ledger.journal import JournalEntry
from sql.snapshot import Snapshot

Entries = list[tuple[Donation, list[JournalEntry]]]  # of each donation of a row


class SumKey(NamedTuple):
    """What entries are added up by: the columns of verify_entries.sql before the sum. '' is no ticket, no currency."""

    donation_id: str
    ticket_id: str
    currency: str
    kind: str
    object_id: str
    effective_at: int

    def __str__(self) -> str:
        place = f"ticket {self.ticket_id or 'none'} in {self.currency or 'none'}"
        return (
            f"donation {self.donation_id}: the {self.kind} entry of {self.object_id} at {self.effective_at} for {place}"
        )


class TicketKey(NamedTuple):
    """What entries are added up by in verify_journal.sql."""

    ticket_id: str
    currency: str
    kind: str


class JournalSums:
    """What is booked, compared with the entries that facts make.

    `pending` is what the rows that an older release wrote still have to book.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self.pending: Counter[TicketKey] = Counter()

    def check(self, facts_of: dict[str, Facts], derived: dict[str, Entries], older: set[str]) -> Iterator[str]:
        """A line per sum of a row in which the journal differs, unless an older release wrote the row.

        Args:
            facts_of: the facts of some rows, by the rows' ids, as `derived`.
            older: the ids of the rows that an older release wrote.
        """
        root_of = {id_: root for root in derived for id_ in projection.donation_ids(facts_of[root])}
        booked: dict[str, dict[SumKey, int]] = {root: {} for root in derived}
        for row in self._snapshot.rows("verify_entries", {"ids": list(root_of)}):
            booked[root_of[row[0]]][SumKey(*row[:-1])] = row[-1]
        for root, entries in derived.items():
            ought = dict(_sums(entries))
            for key in sorted(booked[root].keys() | ought.keys()):
                is_, should_be = booked[root].get(key, 0), ought.get(key, 0)
                if root in older:
                    self.pending[TicketKey(key.ticket_id, key.currency, key.kind)] += should_be - is_
                elif is_ != should_be:
                    yield f"journal of {key} is {is_}, should be {should_be}"

    def differences(self, totals: Mapping[tuple[str, str], Sequence[int]]) -> Iterator[str]:
        """A line per figure in which the journal's sums are not the totals, and for a journal that is not complete.

        Args:
            totals: what is paid, refunded and disputed, by ticket and currency.
        """
        ought = {
            TicketKey(*of, kind): amount
            for of, figures in totals.items()
            for kind, amount in zip(journal.KINDS, figures, strict=True)
        }
        sums = Counter({TicketKey(*row[:3]): row[3] for row in self._snapshot.rows("verify_journal")})
        sums.update(self.pending)
        for key in sorted(sums.keys() | ought.keys()):
            if sums[key] != ought.get(key, 0):
                what = f"{key.kind} entries of ticket {key.ticket_id or 'none'} in {key.currency or 'none'}"
                yield f"journal: the {what} add up to {sums[key]}, should be {ought.get(key, 0)}"
        for donation, kind, amount in self._snapshot.rows("verify_strays"):
            yield f"journal: {kind} entries of {donation} add up to {amount}, and no such donation is known"
        [(entries, last, unordered)] = self._snapshot.rows("verify_order")
        if entries != last:
            yield f"journal: it has {entries} entries, but its last seq is {last}: restore them from a backup"
        if unordered:
            yield f"journal: {unordered} entries are recorded before the entry before them"


def _sums(entries: Iterable[tuple[Donation, list[JournalEntry]]]) -> Iterator[tuple[SumKey, int]]:
    for donation, of in entries:
        place = donation.id, donation.ticket or "", donation.currency or ""
        yield from ((SumKey(*place, entry.kind, entry.object, entry.at), entry.amount) for entry in of)

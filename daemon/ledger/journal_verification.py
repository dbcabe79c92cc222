"""The journal held against the facts: sums per donation, totals per ticket, and whether it is complete (SPEC 9)."""

from collections import Counter
from collections.abc import Iterable, Iterator

from daemon.ledger import journal, projection
from daemon.ledger.donation import Donation
from daemon.ledger.facts import Facts
from daemon.ledger.journal import JournalEntry
from sql.connection import Row
from sql.snapshot import Snapshot

Entries = list[tuple[Donation, list[JournalEntry]]]  # of each donation of a row


class JournalSums:
    """What is booked, held against the entries that facts make.

    `pending` is what the rows that an older release wrote still have to book, per ticket, currency and kind.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self.pending: Counter[Row] = Counter()

    def check(self, facts_of: dict[str, Facts], derived: dict[str, Entries], older: set[str]) -> Iterator[str]:
        """A line per sum of a row in which the journal differs, unless an older release wrote the row.

        Args:
            facts_of: the facts of some rows, by the rows' ids, as `derived`.
            older: the ids of the rows that an older release wrote.
        """
        root_of = {id_: root for root in derived for id_ in projection.donation_ids(facts_of[root])}
        booked: dict[str, dict[Row, int]] = {root: {} for root in derived}
        for row in self._snapshot.rows("verify_entries", {"ids": list(root_of)}):
            booked[root_of[row[0]]][row[:-1]] = row[-1]
        for root, entries in derived.items():
            ought = {key: amount for donation, of in entries for key, amount in _sums(donation, of)}
            for key in sorted(booked[root].keys() | ought.keys()):
                is_, should_be = booked[root].get(key, 0), ought.get(key, 0)
                if root in older:
                    self.pending[key[1:4]] += should_be - is_
                elif is_ != should_be:
                    yield f"journal of {_sum_name(key)} is {is_}, should be {should_be}"

    def differences(self) -> Iterator[str]:
        """A line per figure in which the journal's sums are not the totals, and for a journal that is not complete."""
        kept = {
            row[:2]: dict(zip(journal.KINDS, row[2:5], strict=True)) for row in self._snapshot.rows("verify_totals")
        }
        ought = {(*key, kind): amount for key, figures in kept.items() for kind, amount in figures.items()}
        sums = Counter({row[:3]: row[3] for row in self._snapshot.rows("verify_journal")})
        sums.update(self.pending)
        for ticket, currency, kind in sorted(sums.keys() | ought.keys()):
            is_, should_be = sums[ticket, currency, kind], ought.get((ticket, currency, kind), 0)
            if is_ != should_be:
                what = f"{kind} entries of ticket {ticket or 'none'} in {currency or 'none'}"
                yield f"journal: the {what} add up to {is_}, should be {should_be}"
        [(entries, last, unordered)] = self._snapshot.rows("verify_order")
        if entries != last:
            yield f"journal: it has {entries} entries, but its last seq is {last}: restore them from a backup"
        if unordered:
            yield f"journal: {unordered} entries are recorded before the entry before them"


def _sums(donation: Donation, entries: Iterable[JournalEntry]) -> Iterator[tuple[Row, int]]:
    of = donation.id, donation.ticket or "", donation.currency or ""
    for entry in entries:
        yield (*of, entry.kind, entry.object, entry.at), entry.amount


def _sum_name(key: Row) -> str:
    donation, ticket, currency, kind, object_id, at = key
    place = f"ticket {ticket or 'none'} in {currency or 'none'}"
    return f"donation {donation}: the {kind} entry of {object_id} at {at} for {place}"

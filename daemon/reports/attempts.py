"""Counts the attempts to pay for signals of fraud: for 24 hours, and outside the ledger (SPEC 11).

Each API process counts in memory, and stores what it has counted every few seconds in one small table that all of them
share. So the statement that writes events does not change, several processes and restarts need no rules of their own,
and a process that is killed loses a few seconds of the counts. Both the memory and the table are limited, whatever the
number of attempts: of the rows that are too many, those with the fewest failures are deleted, and of these the oldest.
"""

import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import NamedTuple

import msgspec

from daemon.ledger.events.event_facts import Attempt
from sql import load
from sql.database import Database

# Of each kind, between two times of storing; hashes that paid are a kind of their own here.
MAX_SUBJECTS = 500
# Of each kind in the table, which then has less than a megabyte.
MAX_ROWS = 2000
MINUTE_S = 60


class Kind(StrEnum):
    """By what attempts are counted."""

    ACCOUNT = "account"  # '' is the charity's own account
    TICKET = "ticket"
    HASH = "hash"  # of the donor's e-mail; it is stored from its first failure on
    COUNTRY = "country"


class Counted(NamedTuple):
    """How many attempts there were in one minute (Unix seconds), and how many of them failed."""

    kind: Kind
    subject: str
    minute: int
    attempts: int
    failures: int


class AttemptCounter:
    """Counts in memory until the counts are taken.

    Args:
        clock: the time in Unix seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.not_counted = 0  # because too many subjects of its kind were counted already
        self._begin()

    def _begin(self) -> None:
        self._counts: dict[Kind, dict[tuple[int, str], list[int]]] = {kind: {} for kind in Kind}
        # The payments of hashes are kept apart: so many donors pay that failures would find no place.
        self._paid_hashes: dict[tuple[int, str], int] = {}

    def count(self, attempt: Attempt) -> None:
        """Counts an attempt by all that it names."""
        minute = int(self._clock()) // MINUTE_S * MINUTE_S
        failures = int(attempt.failed)
        self._add(Kind.ACCOUNT, attempt.account, minute, 1, failures)
        if attempt.ticket:
            self._add(Kind.TICKET, attempt.ticket, minute, 1, failures)
        if attempt.country:
            self._add(Kind.COUNTRY, attempt.country, minute, 1, failures)
        if attempt.email_hash:
            self._add(Kind.HASH, attempt.email_hash, minute, 1, failures)

    def _add(self, kind: Kind, subject: str, minute: int, attempts: int, failures: int) -> None:
        counts, key = self._counts[kind], (minute, subject)
        count = counts.get(key)
        if count is not None:
            count[0] += attempts
            count[1] += failures
        elif kind is Kind.HASH and not failures:
            if key in self._paid_hashes or len(self._paid_hashes) < MAX_SUBJECTS:
                self._paid_hashes[key] = self._paid_hashes.get(key, 0) + attempts
        elif len(counts) < MAX_SUBJECTS:
            counts[key] = [attempts, failures]
        else:
            self.not_counted += attempts

    def take(self) -> list[Counted]:
        """What was counted since the last call."""
        for (minute, hash_), paid in self._paid_hashes.items():
            self._counts[Kind.HASH].setdefault((minute, hash_), [0, 0])[0] += paid
        taken = [
            Counted(kind, subject, minute, *count)
            for kind, counts in self._counts.items()
            for (minute, subject), count in counts.items()
        ]
        self._begin()
        return taken

    def put_back(self, counted: Sequence[Counted]) -> None:
        """Counts again what was taken and could not be stored."""
        for kind, subject, minute, attempts, failures in counted:
            self._add(kind, subject, minute, attempts, failures)


async def store(database: Database, counter: AttemptCounter, minute_percent: int) -> None:
    """Moves what was counted to the table, minute by minute, so that the failures of each minute are added up.

    Args:
        minute_percent: how many percent of a minute's attempts must have failed, so that it can be the worst one.

    Raises:
        DatabaseUnavailable, StatementRejected: what is not stored is counted again.
    """
    taken = counter.take()
    for minute in sorted({count.minute for count in taken}):
        rows = msgspec.json.encode([count._asdict() for count in taken if count.minute == minute]).decode()
        try:
            await database.fetch(load("count_attempts"), {"counts": rows, "percent": minute_percent})
        except BaseException:
            counter.put_back([count for count in taken if count.minute >= minute])
            raise


async def delete_old(database: Database) -> None:
    """Deletes the counts of more than 24 hours ago, and of each kind those that are too many."""
    await database.fetch(load("delete_attempts"), {"rows": MAX_ROWS})

"""What a line of the operator log contains: rows of some tables as PostgreSQL prints them, and where the export is.

The log has ids, tickets, times and amounts, and nothing of a donor: of an erased donation it names the objects that are
marked as erased, so that they stay so, also those that a restored ledger does not have yet.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Raw, Struct

from daemon.ledger.facts import FactName, Facts, checked
from daemon.runtime import chained_file
from daemon.runtime.chained_file import BrokenChain, Line

NO_HASH = "00" * 32
BEGINNING = "-infinity"  # as PostgreSQL writes a time before all others


class Position(Struct, frozen=True, kw_only=True):
    """How far the log is, after a line.

    Attributes:
        actions, actions_hash: the last action, by its number and hash in the audit chain.
        entries, transactions: the last entry of the journal, and the last row of balance transactions, by `seq`.
        changes: mails and receipts that were changed before this time are in the log.
        mails, newest_mail: the greatest id of a mail in it, and which mail that is: a database that went back in time
            gives the id again. Logs of earlier releases do not say which.
    """

    actions: int = 0
    actions_hash: str = NO_HASH
    entries: int = 0
    transactions: int = 0
    changes: str = BEGINNING
    mails: int = 0
    newest_mail: str = ""


class Batch(Struct, kw_only=True, omit_defaults=True):
    """A line of the log.

    Attributes:
        ledger: the time of the ledger's first migration, which identifies it.
        rows: by table, rows as JSON objects.
        facts: by the id of an action, what operators decided about the objects of its donation.
    """

    ledger: str
    position: Position
    rows: dict[str, list[Raw]] = {}
    facts: dict[str, dict[str, dict[str, dict[str, object]]]] = {}

    def encode(self) -> bytes:
        """The line's JSON."""
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, line: Line) -> "Batch":
        """Raises BrokenChain if the line is not one of an operator log."""
        try:
            return msgspec.json.decode(line.content, type=cls)
        except msgspec.MsgspecError as error:
            problem = str(error)
        raise BrokenChain(f"a line is not one of an operator log ({problem})")


def read(path: Path) -> Iterator[Batch]:
    """The lines of a log. Raises BrokenChain or OSError."""
    return map(Batch.decode, chained_file.read(path))


# What operators decide about an object, and what ties objects to each other.
DECIDED = frozenset({FactName.ASSIGNED, FactName.CONSENT_WITHDRAWN, FactName.ERASED})
TYING = frozenset(
    {
        FactName.ACCOUNT,
        FactName.CHARGE,
        FactName.CREATED,
        FactName.INVOICE,
        FactName.PAYMENT_INTENT,
        FactName.SEEN,
        FactName.SUBSCRIPTION,
    }
)


def decisions(facts: Facts) -> Facts:
    """What operators decided about the objects of some facts, with what ties these objects to each other: no money, and
    nothing of a donor."""
    kept = {
        family: {
            id_: {name: fact for name, fact in known.items() if name in DECIDED | TYING}
            for id_, known in objects.items()
            if not DECIDED.isdisjoint(known)
        }
        for family, objects in facts.items()
    }
    return {family: objects for family, objects in kept.items() if objects}


def decided_facts(batch: Batch) -> dict[int, Facts]:
    """The facts of a line, by the id of their action. Raises BrokenChain if they have an unexpected form."""
    try:
        return {int(id_): checked(facts) for id_, facts in batch.facts.items()}
    except ValueError as error:
        problem = str(error)
    raise BrokenChain(f"the facts of an action cannot be read ({problem})")

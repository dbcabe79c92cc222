"""Applies the operator log to a restored ledger, before it is served (SPEC 14).

The file is read four times: to check it and compare it with the ledger, for its rows, for what operators decided about
donations, and for their actions, with which the startup gate opens. Every step can be repeated, so that a run that was
interrupted is run again.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Raw, Struct

from daemon.ledger import audit
from daemon.ledger.changes import ReadObjects
from daemon.ledger.recorder import Recorder
from daemon.operator_log.batches import Batch, Position, decided_facts, read
from daemon.operator_log.export import LogState
from sql import load
from sql.database import Database

# What identifies a row of each table, in an order in which rows refer to earlier ones only.
KEYS: dict[str, tuple[str, ...]] = {
    "recording_tickets": ("id",),
    "stripe_events": ("id",),
    "dismissed_warnings": ("id",),
    "closed_reports": ("period", "time_zone", "version"),
    "ledger_entries": ("seq",),
    "balance_transactions": ("seq",),
    "mail_start": ("is_only",),
    "receipts": ("year", "number"),
    "outbox": ("id",),
}
ACTIONS = ("operator_acts", "audit_chain")
# Of these a number that the ledger has must be of the same row.
NUMBERED = ("ledger_entries", "balance_transactions", "receipts", "outbox")
FACTS_AT_ONCE = 100  # actions

Progress = Callable[[str], None]


class CannotApply(Exception):
    """The log does not belong to the ledger as it is now; the message says what to do. Nothing was changed."""


class Applied(Struct, frozen=True):
    """What a log has brought.

    Attributes:
        lines: of the log.
        actions: operators' actions that the ledger lacked.
        decisions: actions that decided something about a donation, which were merged again.
        position: how far the log is.
    """

    lines: int
    actions: int
    decisions: int
    position: Position


async def apply(
    database: Database, path: Path, *, audit_hash: str | None = None, progress: Progress = lambda _: None
) -> Applied:
    """Applies the log at `path`.

    Args:
        audit_hash: a hash that the audit log had, in hexadecimal digits: the log must contain it, or its newest lines
            are missing.

    Raises:
        CannotApply, BrokenChain, OSError: nothing was changed.
        DatabaseUnavailable, StatementRejected: run it again.
    """
    await audit.chain(database)
    progress("checking the log")
    log = await _check(database, path, audit_hash)
    await database.fetch(load("begin_restore"))
    progress("adding rows")
    for batch in read(path):
        await _add_rows(database, batch)
    progress("erasing, withdrawing and assigning")
    decisions = await _decide(database, path)
    await database.fetch(load("continue_numbers"), {"action": log.newest_action})
    for batch in read(path):
        if batch.rows.get("audit_chain"):
            await database.fetch(load("apply_actions"), _arrays(batch, ACTIONS))
    return Applied(log.lines, log.lacking, decisions, log.position)


class Checked(NamedTuple):
    """A log: how many lines it has, where it ends, how many actions the ledger lacks, the greatest id of an action."""

    lines: int
    position: Position
    lacking: int
    newest_action: int


async def _check(database: Database, path: Path, audit_hash: str | None) -> Checked:
    """Compares the whole log with the ledger. Raises CannotApply."""
    [row] = await database.fetch(load("log_state"), {"number": 0, "mail": 0})
    state = LogState._make(row)
    lines, position, is_known, newest = 0, Position(), audit_hash is None, 0
    for batch in read(path):
        if batch.ledger != state.ledger:
            raise CannotApply(f"{path} is the log of another ledger, which began at {batch.ledger}")
        places = [msgspec.json.decode(row, type=ChainRow) for row in batch.rows.get("audit_chain", [])]
        hashes = {place.number: place.hash.removeprefix("\\x") for place in places}
        newest = max([newest, *(place.act_id for place in places)])
        is_known = is_known or (audit_hash or "").lower() in hashes.values()
        await _compare(database, batch, hashes)
        decided_facts(batch)
        lines, position = lines + 1, batch.position
    if not is_known:
        raise CannotApply(f"no action in {path} has the hash {audit_hash}: its newest lines are missing")
    if position.actions < state.actions:
        raise CannotApply(
            f"{path} ends at action {position.actions}, and the ledger has {state.actions}: use a newer copy of the "
            f"log. If there is none, or this ledger is in use, first run: donationd operator-log export {path}"
        )
    return Checked(lines, position, position.actions - state.actions, newest)


class ChainRow(Struct):
    """A row of audit_chain, as PostgreSQL prints it."""

    number: int
    act_id: int
    hash: str


async def _compare(database: Database, batch: Batch, hashes: dict[int, str]) -> None:
    """Raises CannotApply if the ledger has other actions or other rows of NUMBERED under the same numbers."""
    rows = await database.fetch(load("log_hashes"), {"numbers": list(hashes)}) if hashes else []
    for number, found in rows:
        if hashes[number] != found:
            raise CannotApply(f"the ledger has another operator action with the number {number}: {ADVICE}")
    if any(map(batch.rows.get, NUMBERED)):
        for name, number, is_same in await database.fetch(load("log_common_rows"), _arrays(batch, NUMBERED)):
            if not is_same:
                raise CannotApply(f"the ledger has another row {number} in {name}: {ADVICE}")


ADVICE = (
    "it was used after it went back in time. Restore the backup again, and apply the log before it is used; or repeat "
    "by hand what the log has, and begin another log"
)


async def _add_rows(database: Database, batch: Batch) -> None:
    """Adds and changes the rows of one line, but for the actions; with the ledger's lock, as everything that may insert
    what an event inserts too."""
    for table, keys in KEYS.items():
        if rows := batch.rows.get(table):
            statement = f"{load('lock_ledger')};\n{load(f'apply_{table}')}"
            await database.fetch(statement, {"rows": _array(_newest(rows, keys))})


def _newest(rows: Sequence[Raw], keys: Sequence[str]) -> Iterable[Raw]:
    """The last of several rows with the same key."""
    found = {}
    for row in rows:
        values = msgspec.json.decode(row)
        found[tuple(values[key] for key in keys)] = row
    return found.values()


async def _decide(database: Database, path: Path) -> int:
    """Merges what operators decided into the donations, known or not yet, and returns how many actions did."""
    recorder = Recorder(database, queues_mail=False)
    count = 0
    for batch in read(path):
        decided = [ReadObjects(facts, str(id_)) for id_, facts in decided_facts(batch).items() if facts]
        for begin in range(0, len(decided), FACTS_AT_ONCE):
            await recorder.record(decided[begin : begin + FACTS_AT_ONCE])
        count += len(decided)
    return count


def _arrays(batch: Batch, tables: Iterable[str]) -> dict[str, str]:
    """The rows of these tables in a line, by table, each as a JSON array."""
    return {table: _array(batch.rows.get(table, [])) for table in tables}


def _array(rows: Iterable[Raw]) -> str:
    """Rows as a JSON array."""
    return f"[{','.join(bytes(row).decode() for row in rows)}]"

"""Appends to the operator log what the ledger has and the log has not yet."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Raw

from daemon.ledger import audit, projection
from daemon.ledger.facts import FactName, Facts, Family, object_ids
from daemon.ledger.recorder import Recorder
from daemon.operator_log.batches import BEGINNING, Batch, Position, decisions
from daemon.runtime.chained_file import Appender, appending
from sql import load
from sql.connection import Row
from sql.database import Database, DatabaseSnapshot

ROWS = 500  # in a line
STATEMENT_S = 600.0
# A mail is changed at the time at which the statement began, and seen when that has ended. What changed so recently is
# exported once more the next time, and what changed since a statement began that waits for longer (oldest_write.sql).
OVERLAP = timedelta(seconds=60)
FACTS_OF = frozenset({"assign", "erase", "withdraw"})


class CannotExport(Exception):
    """The log is not the one of this ledger as it is now; the message says what to do."""


class LogState(NamedTuple):
    """The row of log_state.sql."""

    began_at: datetime
    hash: str | None
    actions: int
    mails: int
    mail: str | None
    now: datetime

    @property
    def ledger(self) -> str:
        """What identifies the ledger, whatever time zone the server's sessions have."""
        return self.began_at.astimezone(UTC).isoformat()


class ActionRow(NamedTuple):
    """A row of log_actions.sql: the last six are rows as JSON, of the tables of these names."""

    number: int
    hash: str
    id: int
    action: str
    donation: str | None
    operator_acts: str
    audit_chain: str
    recording_tickets: str | None
    stripe_events: str | None
    dismissed_warnings: str | None
    closed_reports: str | None


class Exported(NamedTuple):
    """What was appended: how many rows, and the position and hash of the log after it."""

    rows: int
    position: Position
    hash: str | None


async def export(database: Database, path: Path) -> Exported:
    """Appends to the log at `path`, which is made unless it exists, and returns what was appended.

    Args:
        database: it needs two connections.

    Raises:
        CannotExport: the log is another ledger's, or the ledger lacks what the log has.
        BrokenChain: the end of the log is not as it was written.
        OSError, DatabaseUnavailable, StatementRejected: what was appended until then stays.
    """
    await audit.chain(database)
    with appending(path) as log:
        position = Batch.decode(log.last).position if log.last else Position()
        [(oldest_write,)] = await database.fetch(load("oldest_write"))  # before the snapshot, in which it is missing
        async with database.snapshot(STATEMENT_S) as snapshot:
            [row] = await snapshot.rows(load("log_state"), {"number": position.actions, "mail": position.mails})
            state = LogState._make(row)
            _check(log, position, state, path)
            export = _Export(log, state.ledger, position, snapshot, Recorder(database))
            await export.add_actions()
            await export.add_movements()
            await export.add_mail(min(state.now - OVERLAP, oldest_write))
    return Exported(export.rows, export.position, log.last and log.last.hash.hex())


def _check(log: Appender, position: Position, state: LogState, path: Path) -> None:
    """Raises CannotExport unless the log can be continued."""
    if log.last and (other := Batch.decode(log.last).ledger) != state.ledger:
        raise CannotExport(f"{path} is the log of another ledger, which began at {other}: name another file")
    lacks_actions = position.actions and state.hash != position.actions_hash
    if lacks_actions or state.mails < position.mails or position.newest_mail not in {"", state.mail}:
        lacking = f"operator actions, up to number {position.actions}," if lacks_actions else "mails"
        raise CannotExport(
            f"the ledger lacks {lacking} that {path} has: the database went back in time. "
            f"Run: donationd operator-log apply {path}"
        )


class _Export:
    """An export under way."""

    def __init__(
        self, log: Appender, ledger: str, position: Position, snapshot: DatabaseSnapshot, recorder: Recorder
    ) -> None:
        self._log, self._ledger, self._snapshot, self._recorder = log, ledger, snapshot, recorder
        self.position = position
        self.rows = 0

    async def add_actions(self) -> None:
        """The operators' actions, each with what it decided and the row that it changed."""
        async for rows in self._batches("log_actions", after=self.position.actions):
            actions = list(map(ActionRow._make, rows))
            tables: dict[str, list[str]] = {}
            for action in actions:
                for table, row in zip(ActionRow._fields[5:], action[5:], strict=True):
                    if row is not None:
                        tables.setdefault(table, []).append(row)
            facts = await self._decided([each for each in actions if each.action in FACTS_OF])
            last = actions[-1]
            self._append(tables, facts, actions=last.number, actions_hash=last.hash)

    async def add_movements(self) -> None:
        """The entries of the journal, and the fees, that closed reports were made from."""
        async for rows in self._batches("log_entries", after=self.position.entries):
            self._append({"ledger_entries": [row for _, row in rows]}, entries=rows[-1][0])
        async for rows in self._batches("log_transactions", after=self.position.transactions):
            self._append({"balance_transactions": [row for _, row in rows]}, transactions=rows[-1][0])

    async def add_mail(self, seen_until: datetime) -> None:
        """The mails and receipts that were changed, so that no mail is sent twice and no number is given twice. All
        that were changed before `seen_until` are in the snapshot."""
        since, rows_before = self.position.changes, self.rows
        if since == BEGINNING and (start := await self._snapshot.rows(load("log_mail_start"))):
            self._append({"mail_start": [row for (row,) in start]})
        async for rows in self._batches("log_receipts", since=since):
            self._append({"receipts": [row for (row,) in rows]})
        async for rows in self._batches("log_mails", since=since):
            known = (self.position.mails, self.position.newest_mail)
            mails, newest_mail = max(known, *((id_, mail) for id_, mail, _ in rows))
            self._append({"outbox": [row for *_, row in rows]}, mails=mails, newest_mail=newest_mail)
        if self.rows > rows_before:
            self._append({}, changes=seen_until.astimezone(UTC).isoformat())

    def _batches(self, query: str, **params: object) -> AsyncIterator[list[Row]]:
        return self._snapshot.batches(load(query), params, size=ROWS)

    async def _decided(self, actions: Sequence[ActionRow]) -> dict[str, Facts]:
        """What operators decided about the donations of these actions, by the action's id."""
        named: list[Facts] = [{Family.PAYMENT_INTENT: {each.donation or "": {}}} for each in actions]
        groups = [group.stored for group in await self._recorder.known_facts(named)] if named else []
        group_of = {id_: facts for facts in groups for id_ in object_ids(facts)}
        subscriptions = await self._recorder.known_subscriptions(
            {id_ for each in groups for id_ in projection.subscriptions(each)}
        )
        found = {}
        for each in actions:
            facts = group_of.get(each.donation or "", {})
            withdrawn = {
                id_: subscriptions[id_]
                for id_ in projection.subscriptions(facts)
                if FactName.CONSENT_WITHDRAWN in subscriptions.get(id_, {})
            }
            found[str(each.id)] = decisions({**facts, Family.SUBSCRIPTION: withdrawn})
        return found

    def _append(self, tables: dict[str, list[str]], facts: dict[str, Facts] | None = None, **moved: object) -> None:
        self.position = msgspec.structs.replace(self.position, **moved)
        rows = {table: [Raw(row.encode()) for row in texts] for table, texts in tables.items()}
        batch = Batch(ledger=self._ledger, position=self.position, rows=rows, facts=facts or {})  # type: ignore[arg-type]
        self._log.append(batch.encode())
        self.rows += sum(map(len, rows.values()))

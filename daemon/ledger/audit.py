"""The audit log: what operators did, in a chain of hashes (SPEC 10).

Each action is a row, written by the statement that does it. Its place in the chain is a row of its own, added right
after it by `chain`: the hash of the previous place and the action together make its hash. So a place that is not added
because the process ends is added with the next action, and so are the actions of a former release.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from typing import NamedTuple

from sql import load
from sql.database import Database
from sql.errors import DatabaseUnavailable
from sql.snapshot import Snapshot

CHAINED_AT_ONCE = 10_000
FIRST = bytes(32)  # the hash before the first action
CHAIN = f"{load('lock_audit')};\n{load('chain_actions')}"


class ChainedAction(NamedTuple):
    """A row of verify_actions.sql: a place in the chain with its action; either is None where there is none."""

    number: int | None
    act_id: int | None
    previous_hash: bytes | None
    hash: bytes | None
    id: int | None
    at_us: int | None
    actor: str | None
    action: str | None
    donation: str | None
    event: str | None
    ticket: str | None
    detail: str | None

    @property
    def content(self) -> bytes:
        """What is hashed of an action: a JSON array in the form that chain_actions.sql makes."""
        return json.dumps(self[4:], ensure_ascii=False).encode()


class ActionRow(NamedTuple):
    """A row of list_operator_actions.sql: an action is about a donation, an event, a ticket or none of them."""

    id: int
    at: datetime
    by: str
    action: str
    donation: str | None
    event: str | None
    ticket: str | None
    detail: str
    number: int | None
    hash: str | None


async def actions(database: Database, limit: int, before: int | None = None) -> list[ActionRow]:
    """The newest actions, those with smaller ids than `before`."""
    rows = await database.fetch(load("list_operator_actions"), {"limit": limit, "before": before})
    return list(map(ActionRow._make, rows))


async def record(database: Database, actor: str, action: str, detail: str) -> None:
    """Records a search or an export, durably and in the chain when it returns."""
    await database.fetch(load("record_act"), {"actor": actor, "action": action, "detail": detail})
    await chain(database)


async def chain(database: Database) -> None:
    """Adds to the chain what is not in it yet."""
    while (await database.fetch(CHAIN))[0][0] == CHAINED_AT_ONCE:
        pass


async def chain_quietly(database: Database) -> None:
    """Adds to the chain an action that is done, and so on record already: if this fails, the next action does it."""
    with suppress(DatabaseUnavailable):
        await chain(database)


async def newest_hash(database: Database) -> str | None:
    """The newest hash of the chain, in hexadecimal digits; None while the chain is empty."""
    rows = await database.fetch(load("newest_action_hash"))
    return rows[0][0] if rows else None


class Chain:
    """Checks the audit chain. What former releases write during an upgrade, and an action that was recorded a moment
    ago, is not in the chain yet: that is no difference, and is counted.

    Attributes:
        unchained: the number of actions that are not in the chain, once `differences` has ended.

    Args:
        known_hash: a hash that the chain had at an earlier time: without it, a log that lacks its newest actions, or of
            which every hash was computed again, looks like any other. In hexadecimal digits.
    """

    def __init__(self, known_hash: str | None = None) -> None:
        self._known = bytes.fromhex(known_hash) if known_hash else None
        self.unchained = 0

    def differences(self, rows: Iterable[ChainedAction]) -> Iterator[str]:
        """A line for each action that was changed, removed, inserted or moved since it was recorded."""
        number, newest, is_known = 0, FIRST, self._known in (None, FIRST)
        for row in rows:
            if row.number is None or row.hash is None:
                self.unchained += 1
                continue
            if row.number != number + 1:
                yield f"audit log: places {number + 1} to {row.number - 1} of its chain are missing"
            elif row.previous_hash != newest:
                yield f"audit log: place {row.number} of its chain does not follow the one before it"
            if row.id is None:
                yield f"audit log: action {row.act_id} is missing"
            elif row.hash != hashlib.sha256((row.previous_hash or b"") + row.content).digest():
                yield f"audit log: action {row.id} is not as it was recorded"
            number, newest = row.number, row.hash
            is_known = is_known or newest == self._known
        if not is_known:
            yield "audit log: no action has the hash that was given: actions were removed or recorded again since then"


def chained_actions(snapshot: Snapshot) -> Iterator[ChainedAction]:
    """The rows that `Chain` checks."""
    for row in map(ChainedAction._make, snapshot.stream("verify_actions")):
        yield row._replace(
            previous_hash=row.previous_hash and bytes(row.previous_hash), hash=row.hash and bytes(row.hash)
        )

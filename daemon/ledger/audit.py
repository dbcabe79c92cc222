"""The audit log: what operators did, in a chain of hashes (SPEC 10).

Each action is a row, written by the statement that does it. Its place in the chain is a row of its own, added right
after it by `chain`: the hash of the previous place and the action together make its hash. So a place that is not added
because the process ends is added with the next action, and so are the actions of a former release.
"""

from contextlib import suppress
from datetime import datetime
from typing import NamedTuple

from sql import load
from sql.database import Database
from sql.errors import DatabaseUnavailable

CHAINED_AT_ONCE = 10_000
CHAIN = f"{load('lock_audit')};\n{load('chain_actions')}"


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

"""The release before the journal, as a writer beside today's: its statement booked nothing, and named its rules."""

import msgspec

from daemon.ledger.recorder import EXECUTE
from sql.connection import Params, Row
from sql.database import Database

RULES_VERSION = 1
PARTS, DONATIONS = 0, 2  # places among the statement's parameters


class FormerRelease(Database):
    """A database that is written to as that release does."""

    async def fetch(self, sql: str, params: Params = (), *, prepare: str | None = None) -> list[Row]:
        """As Database.fetch; what the journal's part of the statement reads is taken out."""
        if sql == EXECUTE:
            arrays = list(params)
            arrays[PARTS] = _with(arrays[PARTS], booked=[])
            arrays[DONATIONS] = _with(arrays[DONATIONS], entries=[], rules=RULES_VERSION)
            params = arrays
        return await super().fetch(sql, params, prepare=prepare)


def _with(array: object, **values: object) -> str:
    assert isinstance(array, str)
    return msgspec.json.encode([{**row, **values} for row in msgspec.json.decode(array)]).decode()

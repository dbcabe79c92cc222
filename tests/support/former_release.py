"""Earlier releases, as writers beside today's: that before the journal, whose statement booked nothing, and that before
consent. Each names its rules."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import msgspec

from daemon.ledger import journal, projection
from daemon.ledger.prepared_statements import EXECUTE, EXECUTE_SHORT, EXECUTE_WITH_BILLING
from sql.connection import Params, Row
from sql.database import Database

PLACES = 3  # place among the statement's parameters


def _without_digest(statement: str) -> str:
    """The statements without the digest of a row's entries."""
    for part in (
        ",\n            entries_digest",
        ",\n           entries_digest",
        ",\n        entries_digest = excluded.entries_digest",
    ):
        assert part in statement, "record_events.sql does not have the parts that are taken out here"
        statement = statement.replace(part, "")
    return statement


def _without_journal(statement: str) -> str:
    """The statements without the part that books entries, and without the digest."""
    statement, count = re.subn(
        r"\), changed AS MATERIALIZED \(.*?\), counted AS \(",
        "), counted AS (",
        _without_digest(statement),
        flags=re.DOTALL,
    )
    assert count, "record_events.sql does not have the parts that are taken out here"
    return statement


class WithoutDigest(Database):
    """A database whose statements know no digest of a row's entries."""

    async def fetch(self, sql: str, params: Params = (), *, prepare: str | None = None) -> list[Row]:
        """As Database.fetch."""
        return await super().fetch(sql, params, prepare=prepare and _without_digest(prepare))


class WithoutJournal(Database):
    """A database whose statements book nothing."""

    async def fetch(self, sql: str, params: Params = (), *, prepare: str | None = None) -> list[Row]:
        """As Database.fetch."""
        return await super().fetch(sql, params, prepare=prepare and _without_journal(prepare))


class FormerRelease(WithoutJournal):
    """A database that is written to as the release before the journal does: rows name its rules."""

    async def fetch(self, sql: str, params: Params = (), *, prepare: str | None = None) -> list[Row]:
        """As Database.fetch."""
        return await super().fetch(sql, _by_rules(1, sql, params), prepare=prepare)


class ReleaseBeforeConsent(Database):
    """A database that is written to as the release before consent does: rows name its rules, and have no consent."""

    async def fetch(self, sql: str, params: Params = (), *, prepare: str | None = None) -> list[Row]:
        """As Database.fetch."""
        prepare = prepare and re.sub(r"consent = excluded\.consent,|, consent boolean| consent,", "", prepare)
        return await super().fetch(sql, _by_rules(2, sql, params), prepare=prepare)


def _by_rules(version: int, sql: str, params: Params) -> Params:
    """The parameters of a statement that writes rows, with the version of the rules that the rows name."""
    if sql not in (EXECUTE, EXECUTE_WITH_BILLING, EXECUTE_SHORT):
        return params
    arrays = list(params)
    rows = msgspec.json.decode(str(arrays[PLACES]))
    arrays[PLACES] = msgspec.json.encode([{**row, "rules": version} for row in rows]).decode()
    return arrays


@contextmanager
def no_entries() -> Iterator[None]:
    """No entries are derived, so that what deriving them costs can be compared too."""
    with (
        patch.object(journal, "entries", lambda _donation, _objects: []),
        patch.object(projection, "donation_ids", lambda _facts: set()),
        patch.object(journal, "digest", lambda _derived: 0),
    ):
        yield

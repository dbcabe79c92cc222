"""What a migration may do that the release which ships it can do without: expand, then contract (CONTRIBUTING.md)."""

import re
from collections.abc import Iterator
from typing import Any

import pgparse
import pytest

from sql import migrate
from tests.support.process import ROOT

QUERIES = sorted((ROOT / "sql" / "queries").glob("*.sql"))


class NotPossible(Exception):
    """A statement that this release, or the one before it, may notice."""


def touched(sql: str) -> set[str]:
    """The names of what a migration adds and drops. Raises NotPossible if it does anything else."""
    return {name for each in pgparse.parse(sql) for name in _touched(each["stmt"])}


def _touched(statement: dict[str, Any]) -> Iterator[str]:
    match statement:
        case {"CreateStmt": {"relation": {"relname": name}}}:
            yield name
        case {"IndexStmt": {"idxname": name, **index}} if not index.get("unique"):
            yield name
        case {"DropStmt": {"removeType": "OBJECT_TABLE" | "OBJECT_INDEX", "objects": objects}}:
            yield from (part["String"]["sval"] for each in objects for part in each["List"]["items"])
        case {"AlterTableStmt": {"cmds": changes}}:
            yield from (_changed(each["AlterTableCmd"]) for each in changes)
        case _:
            raise NotPossible(next(iter(statement)))


def _changed(change: dict[str, Any]) -> str:
    """The name of the column or constraint that is added to a table, or dropped."""
    match change:
        case {"subtype": "AT_AddColumn", "def": {"ColumnDef": column}}:
            kinds = {each["Constraint"]["contype"] for each in column.get("constraints", ())}
            if "CONSTR_NOTNULL" not in kinds or "CONSTR_DEFAULT" in kinds:
                return str(column["colname"])
        case {"subtype": "AT_DropColumn" | "AT_DropConstraint", "name": name}:
            return str(name)
    raise NotPossible(change["subtype"])


def test_no_statement_notices_the_migrations_that_this_release_can_do_without() -> None:
    """They add and drop only what no query names."""
    words = {path.name: set(re.findall(r"\w+", path.read_text())) for path in QUERIES}
    for migration in migrate.discover():
        if migrate.number(migration.name) > migrate.NEEDED:
            names = touched(migration.sql)
            assert {query: names & used for query, used in words.items() if names & used} == {}, migration.name


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        ("CREATE TABLE later (id int PRIMARY KEY)", {"later"}),
        ("CREATE INDEX later ON outbox USING brin (due_at)", {"later"}),
        ("ALTER TABLE outbox ADD COLUMN later int, ADD COLUMN others int NOT NULL DEFAULT 0", {"later", "others"}),
        ("DROP INDEX former; DROP TABLE elder", {"former", "elder"}),
        ("ALTER TABLE outbox DROP COLUMN former, DROP CONSTRAINT elder", {"former", "elder"}),
    ],
)
def test_expanding_and_contracting_is_possible(sql: str, names: set[str]) -> None:
    """Each thing that is added or dropped is found by its name."""
    assert touched(sql) == names


@pytest.mark.parametrize(
    "sql",
    [
        "ALTER TABLE outbox ADD COLUMN later int NOT NULL",
        "ALTER TABLE outbox ADD CONSTRAINT later CHECK (attempts < 5) NOT VALID",
        "ALTER TABLE outbox ALTER COLUMN smtp_code SET NOT NULL",
        "ALTER TABLE outbox ALTER COLUMN smtp_code TYPE bigint",
        "ALTER TABLE outbox RENAME COLUMN smtp_code TO code",
        "ALTER TABLE outbox RENAME TO mails",
        "CREATE UNIQUE INDEX later ON outbox (due_at)",
        "CREATE TRIGGER later BEFORE INSERT ON outbox EXECUTE FUNCTION check_mail()",
        "UPDATE outbox SET attempts = 0",
        "REVOKE UPDATE ON outbox FROM donationd",
    ],
)
def test_a_release_would_notice(sql: str) -> None:
    """What tightens, renames or changes is for a release that needs it."""
    with pytest.raises(NotPossible):
        touched(sql)

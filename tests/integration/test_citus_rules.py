"""The rules that Citus 13.2 has for SQL, as far as they can be checked without Citus (deploy/docs/charities.md).

Each rule is what Citus's planner or its check of ALTER TABLE refuses, with schema-based sharding: there a schema's
tables are on one server, whichever that is.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pgparse
import pytest

from sql import migrate
from sql.statements import statements
from tests.support.ledger import rows
from tests.support.process import ROOT

QUERIES = sorted((ROOT / "sql" / "queries").glob("*.sql"))
PLACES = {"location", "stmt_location", "stmt_len"}
Node = dict[str, Any]


def parse(sql: str) -> list[Node]:
    """The statements of a text as PostgreSQL's parser reads them, without their places in the text."""
    return [without_places(each["stmt"]) for each in pgparse.parse(sql)]


def without_places(node: Any) -> Any:
    if isinstance(node, dict):
        return {name: without_places(value) for name, value in node.items() if name not in PLACES}
    return [without_places(each) for each in node] if isinstance(node, list) else node


def find(node: Any, kind: str) -> Iterator[Node]:
    """Every part of this kind within a statement."""
    for each in node if isinstance(node, list) else node.values() if isinstance(node, dict) else ():
        yield from find(each, kind)
    if isinstance(node, dict) and isinstance(node.get(kind), dict):
        yield node[kind]


@cache
def everything() -> dict[str, list[Node]]:
    """The statements of each query and migration, by file; a value that is given later is a parameter."""
    texts = {path.name: re.sub(r"%\(\w+\)s", "$1", path.read_text()).replace("%%", "%") for path in QUERIES}
    return {name: parse(text) for name, text in texts.items()} | {m.name: parse(m.sql) for m in migrate.discover()}


def functions(node: Any) -> set[str]:
    """The names of the functions that are called, and of those with a syntax of their own."""
    called = {call["funcname"][-1]["String"]["sval"] for call in find(node, "FuncCall")}
    return called | {str(each["op"]) for each in find(node, "SQLValueFunction")}


@pytest.fixture
def volatility(database_url: str) -> dict[str, str]:
    """Of each function of PostgreSQL the most that any form of it may change: `i`, `s` or `v`."""
    found = rows(database_url, "SELECT proname::text, max(provolatile::text) FROM pg_proc GROUP BY proname")
    return {str(name): str(kind) for name, kind in found} | {"timezone": "i"}  # AT TIME ZONE of a date and time is


@pytest.mark.parametrize("migration", migrate.discover(), ids=lambda each: str(each.name))
def test_a_migration_is_sent_one_statement_and_one_change_of_a_table_at_a_time(migration: migrate.Migration) -> None:
    """What is sent is what PostgreSQL's parser finds in the file, each ALTER TABLE once for each of its changes."""
    sent = [parse(statement) for statement in statements(migration.sql)]
    expected: list[list[Node]] = []
    for statement in parse(migration.sql):
        alter = statement.get("AlterTableStmt")
        expected += (
            [[{"AlterTableStmt": {**alter, "cmds": [change]}}] for change in alter["cmds"]] if alter else [[statement]]
        )
    assert sent == expected


def test_a_constraint_of_a_new_column_has_a_name() -> None:
    """ADD COLUMN is refused with a constraint that has none, and with a number from a sequence."""
    for name, found in everything().items():
        for change in find(found, "AlterTableCmd"):
            if change["subtype"] == "AT_AddColumn":
                for constraint in find(change, "Constraint"):
                    kind = constraint["contype"]
                    assert kind in {"CONSTR_NOTNULL", "CONSTR_DEFAULT"} or constraint.get("conname"), name
                    assert kind != "CONSTR_IDENTITY", name
                    assert not functions(constraint) & {"nextval"}, name
                assert not {"serial", "bigserial"} & {each["sval"] for each in find(change, "String")}, name


def test_no_name_leads_out_of_the_schema() -> None:
    """No table is named with its schema: it is found by the search path, which is one charity's."""
    for name, found in everything().items():
        assert not [each for each in find(found, "RangeVar") if "schemaname" in each], name


def test_a_conflict_changes_rows_by_their_values_only(volatility: dict[str, str]) -> None:
    """ON CONFLICT DO UPDATE calls immutable functions only, so never now(): the new row's own column has that. It has
    no query of its own: the result of a step of WITH is read by a function that is not immutable.
    """
    for name, found in everything().items():
        for conflict in find(found, "onConflictClause"):
            assert {each for each in functions(conflict) if volatility.get(each, "s") != "i"} == set(), name
            assert not any(True for _ in find(conflict, "SubLink")), name


def changes(found: list[Node]) -> Iterator[Node]:
    """Each UPDATE and DELETE without its WITH, whose steps are queries of their own."""
    for kind in ("UpdateStmt", "DeleteStmt"):
        for statement in find(found, kind):
            yield {part: value for part, value in statement.items() if part != "withClause"}


def test_an_update_calls_no_volatile_function(volatility: dict[str, str]) -> None:
    """Neither does a DELETE: which server evaluates it, and how often, is not defined."""
    for name, found in everything().items():
        for change in changes(found):
            assert {each for each in functions(change) if volatility.get(each) == "v"} == set(), name


def test_the_time_is_in_no_case_and_no_result_of_an_update(volatility: dict[str, str]) -> None:
    """In an UPDATE or DELETE, CASE, COALESCE and RETURNING call immutable functions only. (A COALESCE that begins with
    a given value is none any more when Citus sees it.)
    """
    for name, found in everything().items():
        for change in changes(found):
            choices = [each for each in find(change, "CoalesceExpr") if "ParamRef" not in each["args"][0]]
            parts = [*choices, *find(change, "CaseExpr"), change.get("returningList")]
            assert {each for part in parts for each in functions(part) if volatility.get(each, "s") != "i"} == set(), (
                name
            )


def test_an_update_gives_no_column_to_a_stable_function(volatility: dict[str, str]) -> None:
    """In an UPDATE or DELETE, what depends on the session, such as extract() from a timestamptz, has no column's value.
    (The same holds for operators, such as timestamptz - interval, which only a server knows the types of.)
    """
    for name, found in everything().items():
        for change in changes(found):
            for call in find(change, "FuncCall"):
                if any(True for _ in find(call, "ColumnRef")):
                    assert volatility.get(call["funcname"][-1]["String"]["sval"]) == "i", name


def test_an_insert_reads_tables_in_a_step_of_its_own() -> None:
    """For `INSERT … SELECT … FROM table` with values that it must know, Citus 13.2 makes a statement with a syntax
    error (a condition without operand, added in RebuildQueryStrings). It does not where the rows come from a
    MATERIALIZED step of WITH, where they are a UNION or an EXCEPT, and where the table itself numbers the new rows.
    """
    for name, found in everything().items():
        if name in {m.name for m in migrate.discover()}:
            continue  # a migration has no given values
        for statement in found:
            steps = {each["ctename"]: each for each in find(statement, "CommonTableExpr")}
            for insert in find(statement, "InsertStmt"):
                if insert["relation"]["relname"] not in numbered_tables():
                    read = tables_read(insert.get("selectStmt", {}).get("SelectStmt", {}), steps)
                    assert read == set(), (name, insert["relation"]["relname"])


@cache
def numbered_tables() -> set[str]:
    """The tables with an identity column."""
    found = [each for statements in everything().values() for each in find(statements, "CreateStmt")]
    return {each["relation"]["relname"] for each in found if "CONSTR_IDENTITY" in str(each)}


def tables_read(select: Node, steps: dict[str, Node]) -> set[str]:
    """The tables in FROM and WHERE of a query, and in those of the steps that PostgreSQL makes one query with it."""
    if select.get("op", "SETOP_NONE") != "SETOP_NONE":
        return set()
    names = {str(each["relname"]) for each in find([select.get("fromClause"), select.get("whereClause")], "RangeVar")}
    inlined = [
        steps[name]["ctequery"]["SelectStmt"]
        for name in names & steps.keys()
        if steps[name]["ctematerialized"] != "CTEMaterializeAlways" and "SelectStmt" in steps[name]["ctequery"]
    ]
    return (names - steps.keys()).union(*(tables_read(step, steps) for step in inlined))


def test_plans_are_not_forced_where_citus_must_know_the_values() -> None:
    """No statement of ours sets plan_cache_mode but the one that begins a session and looks whether Citus is there."""
    files = [*(ROOT / "daemon").rglob("*.py"), *(ROOT / "sql").rglob("*.py"), *QUERIES]
    assert [path for path in files if "plan_cache_mode" in path.read_text()] == [Path(ROOT / "sql" / "connection.py")]

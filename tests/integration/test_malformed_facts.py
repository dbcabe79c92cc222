"""`verify` on facts that no release of ours wrote: after an edit by hand, a partial restore or a damaged page."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from click.testing import CliRunner

from daemon.cli.main import main
from daemon.ledger.verification import verify
from daemon.simulator import scenarios
from sql.connection import Row
from sql.snapshot import Snapshot, snapshot
from tests.support.ledger import NOW, add_ticket, record, scenario
from tests.support.postgres import Clone, MakeTemplate

WRONG: tuple[Any, ...] = (
    None,
    True,
    "canary",
    -1,
    0.5,
    10**30,
    [],
    [1],
    [1, "canary"],
    ["canary", 1],
    [1, [2, 3]],
    {},
    {"canary": 1},
)


def fill(url: str) -> None:
    """Records one payment of each kind and a subscription's donations."""
    add_ticket(url, "story-1")
    kinds = {scenario.kind: scenario for scenario in scenarios.generate(3, 200, ["story-1"], now=NOW)}
    for each in kinds.values():
        record(url, each.events)


@pytest.fixture(scope="module")
def template(make_template: MakeTemplate) -> str:
    """Every test begins with the same ledger."""
    return make_template(fill)


@pytest.fixture
def connection(database_url: str) -> Iterator[Any]:
    with closing(psycopg2.connect(database_url)) as connection:
        connection.autocommit = True
        yield connection


def found(database_url: str) -> list[str]:
    with snapshot(database_url, "donationd test") as moment:
        return list(verify(moment, lambda _n: None))


@pytest.mark.parametrize("table", ["stripe_attributions", "stripe_billing"])
@pytest.mark.parametrize("facts", ["null", "5", '"canary"', "[]", '{"canary": 5}', '{"pi": {"pi_1": "canary"}}'])
def test_facts_of_another_shape_are_a_difference(connection: Any, database_url: str, table: str, facts: str) -> None:
    """Every row with such facts is named with what to do, the others are verified, and nothing of it is repeated."""
    assert found(database_url) == []
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {table} SET facts = %s WHERE facts IS NOT NULL", [facts])  # noqa: S608 - no input
        assert cursor.rowcount > 0
        cursor.execute(f"SELECT id FROM {table} WHERE facts IS NOT NULL")  # noqa: S608 - no input
        ids = [id_ for (id_,) in cursor.fetchall()]
    ended = CliRunner().invoke(main, ["verify"], env={"DATABASE_URL": database_url})
    assert (ended.exit_code, type(ended.exception)) == (1, SystemExit)
    for id_ in ids:
        assert any(id_ in line and "malformed" in line for line in ended.output.splitlines()), id_
    assert "canary" not in ended.output


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside a JSON value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inside:
        yield (*path, key)
        yield from places(each, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], by: Any) -> Any:
    changed = copy.deepcopy(value)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = by
    return changed


class Changed(Snapshot):
    """A snapshot in which one row has other facts; what it reads it keeps."""

    def __init__(self, connection: Any, id_: str) -> None:
        super().__init__(connection)
        self._id = id_
        self._kept: dict[str, list[Row]] = {}
        self.facts: Any = None

    def stream(self, name: str, params: Mapping[str, object] | None = None) -> Iterator[Row]:
        """The rows, one of them changed."""
        for row in self.rows(name, params):
            yield (*row[:-2], copy.deepcopy(self.facts), row[-1]) if row[0] == self._id else row

    def rows(self, name: str, params: Mapping[str, object] | None = None) -> list[Row]:
        """The rows as they are."""
        asked = f"{name} {params}"
        if asked not in self._kept:
            self._kept[asked] = super().rows(name, params)
        return copy.deepcopy(self._kept[asked])


@pytest.fixture
def small_ledger(clone: Clone, migrated: str) -> Iterator[Any]:
    """A connection to a ledger of three payments."""
    with clone(migrated) as url, closing(psycopg2.connect(url)) as connection:
        for kind in ("dispute_won", "refund_failed", "paid"):
            record(url, scenario(kind).events)
        yield connection


def test_no_value_in_the_place_of_another_ends_verify(small_ledger: Any) -> None:
    """Whatever stands in the place of whichever value, at every depth: there is an answer, and no other row's facts are
    called malformed.
    """
    with small_ledger.cursor() as cursor:
        cursor.execute("SELECT id, facts FROM stripe_attributions WHERE facts IS NOT NULL ORDER BY length(facts::text)")
        id_, facts = cursor.fetchall()[-1]
    changed, named = Changed(small_ledger, id_), 0
    for path in places(facts):
        for wrong in WRONG:
            changed.facts = replaced(facts, path, wrong)
            malformed = [line for line in verify(changed, lambda _n: None) if "malformed" in line]
            assert [line for line in malformed if id_ not in line] == []
            named += bool(malformed)
    assert named
    changed.facts = facts
    assert list(verify(changed, lambda _n: None)) == []

"""The audit log's chain of hashes: complete after any writer, and broken by any later change."""

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.cli.main import main
from daemon.ledger import audit
from daemon.ledger.audit import Chain, ChainedAction
from daemon.ledger.operators import Operators
from daemon.ledger.recorder import Recorder
from sql.database import Database
from sql.errors import DatabaseUnavailable
from sql.snapshot import snapshot
from tests.simulator.oracle import only_donation
from tests.support.instance import eventually
from tests.support.ledger import add_ticket, ask, record, rows, scenario

TEXTS = ["", "plain", 'quoted "text" and \\', "tab\tand\nline", "\x7f\u0085\u2028", "Ünïcödé 💕", "\x1f"]


def stored(url: str) -> list[ChainedAction]:
    with snapshot(url, "donationd test") as moment:
        return list(audit.chained_actions(moment))


def differences(found: list[ChainedAction], known_hash: str | None = None) -> list[str]:
    return list(Chain(known_hash).differences(found))


def record_searches(url: str, details: list[str]) -> None:
    async def ask_all(database: Database) -> None:
        for detail in details:
            await audit.record(database, "alex", "search", detail)

    ask(url, ask_all)


def test_python_and_postgresql_make_the_same_hash(database_url: str) -> None:
    """Whatever text an action contains: quotes, control characters, every script."""
    record_searches(database_url, TEXTS)
    found = stored(database_url)
    assert [row.detail for row in found] == TEXTS
    assert differences(found) == []
    assert [row.number for row in found] == list(range(1, len(TEXTS) + 1))


@pytest.fixture(scope="module")
def chain(postgres: str, migrated: str) -> list[ChainedAction]:
    """A chain of some actions, as it is stored."""
    name = "test_audit_chain"
    with closing(psycopg2.connect(postgres.format(name="postgres"))) as admin:
        admin.autocommit = True
        admin.cursor().execute(f"CREATE DATABASE {name} TEMPLATE {migrated}")
    record_searches(postgres.format(name=name), [f"{n}" for n in range(12)])
    return stored(postgres.format(name=name))


PLACES = st.integers(min_value=0, max_value=11)
FIELDS = st.sampled_from(["at_us", "actor", "action", "donation", "event", "ticket", "detail", "id", "hash",
                          "previous_hash", "number", "act_id"])  # fmt: skip


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=PLACES, name=FIELDS)
def test_an_edit_is_found(chain: list[ChainedAction], place: int, name: str) -> None:
    """Any other value of any column of any action or place, but for the column that only joins them."""
    row = chain[place]
    value = getattr(row, name)
    other = (value or 0) + 1 if isinstance(value, int) else bytes(32) if isinstance(value, bytes) else f"{value}x"
    if value == other or name == "act_id":
        return
    change: dict[str, Any] = {name: other}
    edited = [*chain[:place], row._replace(**change), *chain[place + 1 :]]
    assert differences(edited) != []


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_deletion_an_insertion_and_another_order_are_found(chain: list[ChainedAction], data: st.DataObject) -> None:
    """Of actions or of places with their actions; of the newest ones by the hash that was noted before."""
    newest = chain[-1].hash
    assert newest is not None
    first, second = sorted(data.draw(st.tuples(PLACES, PLACES)))
    kind = data.draw(st.sampled_from(["delete", "delete action", "insert", "swap", "swap contents"]))
    edited = list(chain)
    match kind:
        case "delete":
            del edited[first : second + 1]
        case "delete action":
            edited[first] = edited[first]._replace(id=None, at_us=None, actor=None, action=None, detail=None)
        case "insert":
            edited.insert(first, edited[second])
        case "swap":
            edited[first], edited[second] = edited[second], edited[first]
        case "swap contents":
            one, other = edited[first], edited[second]
            edited[first], edited[second] = one._replace(**_action(other)), other._replace(**_action(one))
    if edited == chain:
        return
    assert differences(edited, newest.hex()) != [], kind


def _action(row: ChainedAction) -> dict[str, Any]:
    return {name: getattr(row, name) for name in ("at_us", "actor", "action", "donation", "event", "ticket", "detail")}


def test_a_chain_that_was_computed_again_is_found_by_a_noted_hash(
    chain: list[ChainedAction], database_url: str
) -> None:
    """Without the hash it looks like any other; with it, it is one difference."""
    noted = chain[-1].hash
    assert noted is not None
    record_searches(database_url, ["another"] * 12)
    assert differences(stored(database_url)) == []
    [line] = differences(stored(database_url), noted.hex())
    assert "the hash that was given" in line
    assert differences(chain, (chain[5].hash or b"").hex()) == []


def test_many_writers_make_one_chain(database_url: str) -> None:
    """Operators that assign, erase, dismiss, search and change tickets at the same moment, over connections of their
    own: every action is in the chain once, in one order.
    """
    scenarios = [scenario("paid", number) for number in range(4)]
    for each in scenarios:
        record(database_url, each.events)
    add_ticket(database_url, "story-1")

    async def work(seed: int) -> None:
        database = Database(
            database_url, pool_size=2, statement_timeout_s=30, connect_timeout_s=10, application_name=f"writer {seed}"
        )
        operators, chosen = Operators(database, Recorder(database)), random.Random(seed)
        for _ in range(6):
            donation = only_donation(chosen.choice(scenarios)).donation
            match chosen.randrange(3):
                case 0:
                    await operators.assign(donation, "story-1", actor="alex")
                case 1:
                    facts = await operators.facts_of(donation)
                    await operators.erase({donation: facts}, actor="kim")
                case _:
                    await audit.record(database, "sam", "export", "csv")
        await database.close()

    async def all_at_once() -> None:
        await asyncio.gather(*map(work, range(6)))

    asyncio.run(all_at_once())
    found = stored(database_url)
    assert len(found) == 36
    assert sorted(row.id or 0 for row in found) == list(range(1, 37))
    assert differences(found) == []
    assert rows(database_url, "SELECT count(*) FROM audit_chain") == [(36,)]


FORMER = (
    "INSERT INTO operator_acts (at, actor, action, donation_id, detail) VALUES (now(), 'former', 'assign', 'pi_1', 's')"
)


def test_a_writer_waits_for_the_one_before_it(database_url: str) -> None:
    """While one process adds to the chain, another one waits, and then follows what the first one has added."""
    rows(database_url, FORMER)
    with ThreadPoolExecutor() as threads, closing(psycopg2.connect(database_url)) as first, first.cursor() as cursor:
        cursor.execute(audit.CHAIN)
        second = threads.submit(record_searches, database_url, ["one"])
        waits = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE wait_event_type = 'Lock' AND wait_event = 'advisory' AND datname = current_database()"
        )
        eventually(lambda: rows(database_url, waits) == [(1,)], "the second one waits for the first")
        first.commit()
        second.result()
    assert [(row.number, row.id) for row in stored(database_url)] == [(1, 1), (2, 2)]
    assert differences(stored(database_url)) == []


def test_actions_of_a_former_release_are_added_by_the_next_one(database_url: str) -> None:
    """During a rolling upgrade it writes actions without a place: they are counted and no difference, and the next
    action adds them before itself, also one that is committed later than an action with a greater id.
    """
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        cursor.execute(FORMER)  # id 1, not committed yet
        rows(database_url, FORMER)  # id 2
        check = Chain()
        assert list(check.differences(stored(database_url))) == []
        assert check.unchained == 1
        record_searches(database_url, ["one"])
        assert [(row.number, row.id) for row in stored(database_url)] == [(1, 2), (2, 3)]
        connection.commit()
    record_searches(database_url, ["two"])
    found = stored(database_url)
    assert [(row.number, row.id) for row in found] == [(1, 2), (2, 3), (3, 1), (4, 4)]
    assert differences(found) == []


def test_an_old_log_gets_its_chain(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many actions there are, `donationd migrate` adds all of them."""
    rows(
        database_url,
        "INSERT INTO operator_acts (at, actor, action, donation_id)"
        " SELECT now(), 'former', 'erase', 'pi_' || n FROM generate_series(1, 25000) n",
    )
    monkeypatch.setenv("DATABASE_URL", database_url)
    assert CliRunner().invoke(main, ["migrate"]).exit_code == 0
    found = stored(database_url)
    assert [(row.number, row.id) for row in found] == [(n, n) for n in range(1, 25001)]
    assert differences(found) == []


async def test_an_action_whose_place_could_not_be_added_is_done(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database fails right after an assignment: it is done and on record, and the next action adds both places. A
    search or export is not begun in this case.
    """

    async def fail(_database: Database) -> None:
        raise DatabaseUnavailable("timeout")

    with monkeypatch.context() as broken:
        broken.setattr(audit, "chain", fail)
        await audit.chain_quietly(database)
        with pytest.raises(DatabaseUnavailable):
            await audit.record(database, "alex", "search", "")
    await audit.record(database, "alex", "search", "")
    assert [row[0] for row in await database.fetch("SELECT act_id FROM audit_chain ORDER BY number")] == [1, 2]


# --- The commands


TAMPERING = {
    "UPDATE operator_acts SET actor = 'other' WHERE id = 2": "audit log: action 2 is not as it was recorded",
    "UPDATE operator_acts SET at = at + interval '1 microsecond' WHERE id = 2": "action 2 is not as it was recorded",
    "DELETE FROM operator_acts WHERE id = 2": "audit log: action 2 is missing",
    "DELETE FROM audit_chain WHERE number = 2": "audit log: places 2 to 2 of its chain are missing",
    "UPDATE audit_chain SET act_id = 3 WHERE act_id = 2": "audit log: action 3 is missing",
    "UPDATE audit_chain SET hash = decode(repeat('00', 32), 'hex') WHERE number = 2": "does not follow the one before",
    "DELETE FROM audit_chain WHERE number > 2": "the hash that was given",
    "DELETE FROM operator_acts WHERE id > 2; DELETE FROM audit_chain WHERE number > 2": "the hash that was given",
}


@pytest.mark.parametrize("damage", TAMPERING)
def test_verify_finds_each_kind_of_tampering(donationd: Callable[..., Result], database_url: str, damage: str) -> None:
    """`donationd audit` prints the newest hash; with it, verify finds what was changed, removed or put in between."""
    record_searches(database_url, ["a", "b", "c"])
    rows(database_url, "DELETE FROM operator_acts WHERE id = 3; DELETE FROM audit_chain WHERE number = 3")
    record_searches(database_url, ["d"])
    printed = donationd("audit").stderr
    noted = printed.partition("newest hash of the audit log: ")[2].split()[0]
    right = donationd("verify", "--audit-hash", noted)
    assert (right.exit_code, right.stdout) == (0, "the ledger and its facts agree\n")
    rows(database_url, damage)
    wrong = donationd("verify", "--audit-hash", noted)
    assert wrong.exit_code == 1
    assert TAMPERING[damage] in wrong.stdout


def test_a_ticket_that_the_command_changes_is_on_record(donationd: Callable[..., Result], database_url: str) -> None:
    """With the name that was given, what was changed, and a place in the chain."""
    add = ("tickets", "add", "story-7", "--by", "kim")
    assert donationd(*add, "--title", "A roof", "--goal", "500", "--currency", "EUR").output == "added story-7\n"
    assert donationd(*add, "--state", "hidden").output == "changed story-7\n"
    assert donationd(*add, "--goal", "1.005").exit_code == 1
    assert donationd(*add, "--goal", "-1").exit_code == 2
    assert donationd(*add, "--goal", "0").exit_code == 0
    assert [(row.actor, row.ticket, row.detail) for row in stored(database_url)] == [
        ("kim", "story-7", "title, currency EUR, goal 500.00"),
        ("kim", "story-7", "state hidden"),
        ("kim", "story-7", "goal none"),
    ]
    assert "kim              ticket  story-7 state hidden" in donationd("audit").stdout
    assert "A roof [hidden]" in donationd("tickets", "list").stdout

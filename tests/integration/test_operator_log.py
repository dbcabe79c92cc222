"""The operator log: a restored ledger gets back what Stripe does not have, before it is served."""

import asyncio
import itertools
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import psycopg2
import pytest
from click.testing import CliRunner, Result
from psycopg2.extensions import connection as Connection

from daemon.cli.main import main
from daemon.instance.postgres import ROLE
from daemon.instance.roles import set_rights
from daemon.jobs.balance import read_balance
from daemon.jobs.operator_log import run as run_job
from daemon.jobs.outbox import Outbox
from daemon.jobs.reconcile import Options, Reports, reconcile
from daemon.jobs.replay import replay
from daemon.jobs.schedule import JobDependencies, ProblemsFound
from daemon.ledger import audit
from daemon.ledger.facts import DONOR_FIELDS
from daemon.operator_log import export as exporting
from daemon.operator_log.apply import ACTIONS, KEYS, apply
from daemon.operator_log.batches import Batch
from daemon.operator_log.export import export
from daemon.restore_check.comparison import compare, keep
from daemon.restore_check.drill import connected
from daemon.restore_check.work import Work
from daemon.runtime import chained_file
from daemon.runtime.chained_file import read
from daemon.simulator.fake_stripe.fake import FakeStripe
from daemon.simulator.fake_stripe.server import serving
from health_sidecar.gate import NOT_APPLIED
from sql import load
from sql.database import Database
from sql.errors import DatabaseUnavailable
from sql.schemas import PUBLIC
from tests.support.ledger import ask, rows
from tests.support.postgres import USER, Server

EVENTS = 150
FIRST_LOG = Path(__file__).parents[1] / "support" / "operator_log.txt"  # as the first release with one has written it
_numbers = itertools.count(1)


@dataclass
class Lost:
    """A ledger that was lost: its name, that of its backup, what it had, and its operator log."""

    name: str
    backup: str
    fake: FakeStripe
    work: Work
    kept: Path
    log: bytes


@pytest.fixture(scope="module")
def lost(
    postgres: str, administrator: Connection, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lost]:
    """Everything that can happen to a ledger, partly after its backup."""
    folder = tmp_path_factory.mktemp("lost")
    cursor = administrator.cursor()
    cursor.execute(f"CREATE DATABASE lost TEMPLATE {template}")
    url, path, fake = postgres.format(name="lost"), folder / "operator.log", FakeStripe()

    async def before() -> Work:
        async with serving(fake), connected(url, fake) as deps:
            work = Work(fake, deps, int(time.time()))
            await work.before_the_backup(EVENTS)
            await export(deps.database, path)
            return work

    async def after() -> None:
        async with serving(fake), connected(url, fake) as deps:
            work.continue_with(deps)
            await work.after_the_backup(EVENTS)
            await export(deps.database, path)
            await work.until_the_loss()
            await export(deps.database, path)

    work = asyncio.run(before())
    cursor.execute("CREATE DATABASE backup TEMPLATE lost")
    asyncio.run(after())
    for of in ("facts", "rows"):
        keep(url, of, folder / of)
    yield Lost("lost", "backup", fake, work, folder, path.read_bytes())
    for name in ("lost", "backup"):
        cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def restored(lost: Lost, postgres: str, administrator: Connection, tmp_path: Path) -> Iterator[str]:
    """The URL of the backup, restored, as the role of the API; the log is in the test's folder."""
    name = f"restored_{next(_numbers)}"
    cursor = administrator.cursor()
    cursor.execute(f"CREATE DATABASE {name} TEMPLATE {lost.backup} STRATEGY FILE_COPY")
    (tmp_path / "operator.log").write_bytes(lost.log)
    url = postgres.format(name=name)
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as owner:
        set_rights(owner, schema=PUBLIC, role=ROLE)
    yield url.replace(USER, ROLE)
    cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


def donationd(url: str, *words: str, **environ: str) -> Result:
    return CliRunner().invoke(main, words, env={"DATABASE_URL": url, **environ})


def gate(url: str, log: Path) -> tuple[int, str | None]:
    """The exit status of the startup gate with this operator log, and the class of its error."""
    ran = donationd(url, "gate", "--json", OPERATOR_LOG=str(log), READINESS_SOCKET=str(log.with_name("socket")))
    return ran.exit_code, json.loads(ran.stdout)["error"]


def contents(url: str, folder: Path) -> dict[str, str]:
    """All rows that a ledger has."""
    for of in ("facts", "rows"):
        keep(url, of, folder)
    return {path.name: path.read_text() for path in folder.iterdir()}


def differing(lost: Lost, of: str, url: str, folder: Path) -> dict[str, int]:
    """How many rows differ from the lost ledger's, by kind."""
    keep(url, of, folder)
    return {each.kind: each.differing for each in compare(lost.kept / of, folder) if each.differing}


async def replay_events(lost: Lost, url: str) -> None:
    """What Stripe's events have."""
    async with serving(lost.fake), connected(url, lost.fake) as deps:
        await replay(deps, lost.work.backup_at - 1)


async def bring_back(lost: Lost, url: str) -> None:
    """What Stripe has."""
    async with serving(lost.fake), connected(url, lost.fake) as deps:
        assert await Outbox(deps.database).due() == []
        await replay(deps, lost.work.backup_at - 1)
        assert await Outbox(deps.database).due() == []
        found = await reconcile(deps, Options(), Reports())
        assert (found.differences, found.unknown, found.failed) == (0, 0, 0)
        assert await Outbox(deps.database).due()
        await read_balance(deps.stripe, deps.database)


def test_a_restore_that_is_interrupted_and_repeated(
    lost: Lost, restored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often applying ends early, the gate does not open before the end; then the ledger has every row, with the
    numbers, hashes and times that it had; further actions, exports and the checks continue, and mails wait until
    nothing is missing."""
    path, calls, limit, original = tmp_path / "operator.log", 0, 2, Database.fetch

    async def fetch(self: Database, *arguments: object, **named: object) -> object:
        nonlocal calls
        calls += 1
        if calls == limit:
            raise ConnectionError
        return await original(self, *arguments, **named)  # type: ignore[arg-type]

    while True:
        assert gate(restored, path) == (1, NOT_APPLIED)
        calls, limit = 0, limit + 4
        with monkeypatch.context() as patched:
            patched.setattr(Database, "fetch", fetch)
            with suppress(ConnectionError):
                ask(restored, lambda database: apply(database, path))
                break
    assert calls > 25
    asyncio.run(bring_back(lost, restored))
    assert differing(lost, "rows", restored, tmp_path / "rows") == {}
    again = donationd(restored, "operator-log", "apply", str(path), "--json")
    assert json.loads(again.stdout)["actions"] == 0
    ask(restored, lambda database: audit.record(database, "alex", "search", "after the restore"))
    exported = donationd(restored, "operator-log", "export", str(path), "--json")
    assert json.loads(exported.stdout)["position"]["actions"] == len(rows(restored, "SELECT id FROM operator_acts"))
    assert donationd(restored, "operator-log", "verify", str(path)).exit_code == 0
    assert donationd(restored, "verify").exit_code == 0


def test_erased_donors_stay_erased(lost: Lost, restored: str, server: Server, tmp_path: Path) -> None:
    """Once the log is applied nothing in the database, old versions of rows aside, has their last names or hashes, also
    when Stripe delivers all their events again; and the log itself never had them."""

    def found() -> list[str]:
        dump = server.dump(restored.replace(f"//{ROLE}@", f"//{USER}@"))
        return [text for text in lost.work.canaries if text in dump]

    assert found()  # the backup has some of them
    assert donationd(restored, "operator-log", "apply", str(tmp_path / "operator.log")).exit_code == 0
    assert found() == []
    asyncio.run(bring_back(lost, restored))
    assert found() == []
    assert not any(text.encode() in lost.log for text in lost.work.canaries)


# What the ledger of a drill may lack after a restore (operations.md, Restore), or what says how far something is.
NOT_RESTORED = {
    *("balance_reading", "checkout_starts", "daily_sums", "daily_sums_state", "ended_sessions", "export_manifests"),
    *("health_check_runs", "job_runs", "payment_attempts", "rate_limits", "schema_migrations", "stripe_runs"),
}


def test_everything_is_compared_and_every_action_happens(lost: Lost, postgres: str) -> None:
    """For each table and each action of operators it is decided how it comes back after a restore."""
    url = postgres.format(name=lost.name)
    tables = {name for (name,) in rows(url, "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'")}
    compared = load("comparable_rows") + load("comparable_facts")
    assert {name for name in tables if re.search(rf"FROM {name}\b", compared)} == tables - NOT_RESTORED
    [(check,)] = rows(url, "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'act_known'")
    actions = {action for (action,) in rows(url, "SELECT DISTINCT action FROM operator_acts")}
    assert actions == set(re.findall(r"'(\w+)'::text", check))


def test_the_log_has_nothing_of_any_donor(lost: Lost) -> None:
    """No fact about a donor is in it under any name, and none of the names and hashes that the ledger has."""
    text = (lost.kept / "rows" / "donations").read_text()
    found = {each for name in DONOR_FIELDS for each in re.findall(rf'"donor_{name}": ("[^"]+")', text)}
    names = {f'"{name}"' for name in DONOR_FIELDS} | {each for each in found if len(each) > len('"US"')}
    assert len(names) > 10
    assert not any(name.encode() in lost.log for name in names)


def test_what_facts_say_is_the_same_when_the_events_are_there(lost: Lost, restored: str, tmp_path: Path) -> None:
    """Before any object is read, log and replay give each row the facts that it had."""
    assert donationd(restored, "operator-log", "apply", str(tmp_path / "operator.log")).exit_code == 0
    asyncio.run(replay_events(lost, restored))
    assert differing(lost, "facts", restored, tmp_path / "facts") == {}


def edited(log: bytes) -> bytes:
    return log.replace(b'"actor":"drill"', b'"actor":"other"', 1)


def without_a_line(log: bytes) -> bytes:
    lines = log.splitlines(keepends=True)
    return b"".join(lines[:1] + lines[2:])


def cut_to_a_line(log: bytes) -> bytes:
    return log.splitlines(keepends=True)[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (edited, "is not the one that was written"),
        (without_a_line, "line 2 of"),
        (cut_to_a_line, "its newest lines are missing"),
        (lambda _log: b"", "its newest lines are missing"),
    ],
    ids=["edited", "a line removed", "cut", "empty"],
)
def test_a_log_that_was_changed_is_refused(
    change: Callable[[bytes], bytes], reason: str, lost: Lost, restored: str, tmp_path: Path
) -> None:
    """With exit status 1 and a sentence that says why, and nothing is changed in the ledger."""
    path, url = tmp_path / "operator.log", restored
    path.write_bytes(change(lost.log))
    newest = Batch.decode(list(read(lost.kept / "operator.log"))[-1]).position.actions_hash
    before = contents(url, tmp_path / "before")
    refused = donationd(url, "operator-log", "apply", str(path), "--audit-hash", newest)
    assert (refused.exit_code, reason in refused.stderr) == (1, True), refused.stderr
    assert contents(url, tmp_path / "after") == before


def test_another_time_zone_of_the_server(lost: Lost, restored: str, tmp_path: Path) -> None:
    """Times are the same in each: the log is applied, and applied again."""
    name = restored.partition("?")[0].rpartition("/")[2]
    with closing(psycopg2.connect(restored.replace(f"//{ROLE}@", f"//{USER}@"))) as connection, connection:
        connection.cursor().execute(f"ALTER DATABASE {name} SET timezone = 'Asia/Tokyo'")
    for _ in range(2):
        applied = donationd(restored, "operator-log", "apply", str(tmp_path / "operator.log"))
        assert applied.exit_code == 0, applied.stderr


def test_an_incomplete_last_line_is_left_out(lost: Lost, restored: str, tmp_path: Path) -> None:
    """It is what the end of the exporting process leaves; what came before it is applied."""
    path = tmp_path / "operator.log"
    path.write_bytes(lost.log + b"0123")
    assert donationd(restored, "operator-log", "apply", str(path)).exit_code == 0


def test_the_log_of_another_ledger_is_refused(lost: Lost, database_url: str, tmp_path: Path) -> None:
    """It is neither applied nor continued."""
    path = tmp_path / "operator.log"
    path.write_bytes(lost.log)
    with_time = "UPDATE schema_migrations SET applied_at = applied_at - interval '1 day'"
    ask(database_url, lambda database: database.fetch(with_time))
    for command in ("apply", "export"):
        refused = donationd(database_url, "operator-log", command, str(path))
        assert (refused.exit_code, "the log of another ledger" in refused.stderr) == (1, True)
    assert path.read_bytes() == lost.log


@pytest.mark.parametrize("used", ["action", "entry", "mail"])
def test_a_ledger_that_was_used_since_it_was_restored(lost: Lost, restored: str, used: str, tmp_path: Path) -> None:
    """It has other actions, entries or mails under the numbers of the log's: nothing of either is overwritten."""
    path = tmp_path / "operator.log"
    if used == "action":
        ask(restored, lambda database: audit.record(database, "alex", "search", "by hash"))
    elif used == "mail":
        queued = "INSERT INTO outbox (donation_id, kind, seq) VALUES ('pi_other', 'thanks', 0)"
        ask(restored, lambda database: database.fetch(queued))
    else:
        asyncio.run(replay_events(lost, restored))
    before = contents(restored, tmp_path / "before")
    refused = donationd(restored, "operator-log", "apply", str(path))
    assert (refused.exit_code, "it was used after it went back in time" in refused.stderr) == (1, True)
    assert contents(restored, tmp_path / "after") == before


def test_the_gate_refuses_a_ledger_to_which_the_log_was_not_applied(restored: str, tmp_path: Path) -> None:
    """So no donor who was erased is shown; a log that does not exist yet, or cannot be read, refuses nothing."""
    path = tmp_path / "operator.log"
    (tmp_path / "damaged.log").write_bytes(b"0123\n")
    assert gate(restored, path) == (1, NOT_APPLIED)
    assert [gate(restored, tmp_path / name) for name in ("none.log", "damaged.log")] == [(0, None)] * 2
    assert donationd(restored, "operator-log", "apply", OPERATOR_LOG=str(path)).exit_code == 0
    assert gate(restored, path) == (0, None)


def test_the_gate_refuses_a_log_that_it_may_not_read(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that root has put in its place after a restore: the ledger may lack what it has."""

    def read_last(_path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(chained_file, "read_last", read_last)
    assert gate(database_url, tmp_path / "operator.log") == (1, NOT_APPLIED)


async def test_a_ledger_that_lacks_mails(database: Database, database_url: str, tmp_path: Path) -> None:
    """The gate refuses it, and the log is not continued, also if operators did nothing since the backup: mails would be
    sent again."""
    path = tmp_path / "operator.log"
    await database.fetch("INSERT INTO outbox (donation_id, kind, seq) VALUES ('pi_1', 'thanks', 0)")
    await export(database, path)
    assert await asyncio.to_thread(gate, database_url, path) == (0, None)
    await database.fetch("DELETE FROM outbox")
    assert await asyncio.to_thread(gate, database_url, path) == (1, NOT_APPLIED)
    with pytest.raises(exporting.CannotExport, match="lacks mails"):
        await export(database, path)


async def test_a_mail_whose_id_was_given_again(database: Database, database_url: str, tmp_path: Path) -> None:
    """A database that went back gives the id of a lost mail to another one, perhaps before the next export."""
    path = tmp_path / "operator.log"
    queue = (
        "INSERT INTO outbox (id, donation_id, kind, seq) OVERRIDING SYSTEM VALUE VALUES (%(id)s, %(of)s, 'thanks', 0)"
    )
    await database.fetch(queue, {"id": 1, "of": "pi_lost"})
    await export(database, path)
    await database.fetch("DELETE FROM outbox")
    for id_ in (1, 2):
        await database.fetch(queue, {"id": id_, "of": f"pi_{id_}"})
    with pytest.raises(exporting.CannotExport, match="lacks mails"):
        await export(database, path)
    assert await asyncio.to_thread(gate, database_url, path) == (1, NOT_APPLIED)


async def test_rows_are_added_with_the_ledger_s_lock(database: Database, database_url: str, tmp_path: Path) -> None:
    """Because an event may insert the same rows."""
    path = tmp_path / "operator.log"
    await database.fetch("INSERT INTO mail_start (started_at) VALUES (now())")
    await export(database, path)
    hasty = Database(
        database_url, pool_size=1, statement_timeout_s=1, connect_timeout_s=5, application_name="donationd test"
    )
    with closing(psycopg2.connect(database_url)) as other, other.cursor() as cursor:
        cursor.execute(load("lock_ledger"))
        with pytest.raises(DatabaseUnavailable, match="lock held"):
            await apply(hasty, path)
    await hasty.close()


def test_the_log_of_an_earlier_release_is_applied(database_url: str) -> None:
    """Whatever migrations have added to its tables since: a backup of today may be restored by a later release."""
    [batch] = map(Batch.decode, read(FIRST_LOG))
    began = {"began": batch.ledger}
    ask(database_url, lambda database: database.fetch("UPDATE schema_migrations SET applied_at = %(began)s", began))
    applied = donationd(database_url, "operator-log", "apply", str(FIRST_LOG))
    assert applied.exit_code == 0, applied.stderr
    assert set(batch.rows) == {*KEYS, *ACTIONS}
    for table, logged in batch.rows.items():
        counted = f"SELECT 1 FROM {table}"  # noqa: S608 - the name of a table of ours
        assert len(rows(database_url, counted)) == len(logged)
    [(facts,)] = rows(database_url, "SELECT facts::text FROM stripe_attributions")
    assert facts.count('"erased"') == 3  # PaymentIntent, session and charge


def test_a_log_that_is_older_than_the_ledger(lost: Lost, postgres: str, tmp_path: Path) -> None:
    """It would not bring back everything, and is refused also without a hash that was noted before."""
    path = tmp_path / "operator.log"
    path.write_bytes(cut_to_a_line(lost.log))
    refused = donationd(postgres.format(name=lost.name), "operator-log", "apply", str(path))
    assert (refused.exit_code, "use a newer copy of the log" in refused.stderr) == (1, True)


def test_the_command_exports_decisions(lost: Lost, postgres: str, tmp_path: Path) -> None:
    """A whole log that the command makes at once has the same actions as the one that was made in steps."""
    url, path = postgres.format(name=lost.name), tmp_path / "new.log"
    exported = donationd(url, "operator-log", "export", str(path), "--json")
    assert exported.exit_code == 0, exported.stderr
    noted = json.loads(exported.stdout)["hash"]
    assert donationd(url, "operator-log", "verify", str(path), "--hash", noted.upper()).exit_code == 0
    older = donationd(url, "operator-log", "verify", str(lost.kept / "operator.log"), "--hash", noted)
    assert (older.exit_code, "its newest lines are missing" in older.stderr) == (1, True)
    before, after = (list(map(Batch.decode, read(log))) for log in (lost.kept / "operator.log", path))
    assert before[-1].position.actions_hash == after[-1].position.actions_hash
    assert {id_ for each in before for id_ in each.facts} == {id_ for each in after for id_ in each.facts} != set()


async def test_the_job_appends_what_is_new(database: Database, tmp_path: Path) -> None:
    """A pass without anything new appends nothing; a ledger that lacks what the log has is a problem to report."""
    path = tmp_path / "operator.log"
    deps = cast("JobDependencies", SimpleNamespace(database=database, config=SimpleNamespace(operator_log=path)))
    for count in (1, 2):
        await audit.record(database, "alex", "search", "by hash")
        await run_job(deps)
        size = path.stat().st_size
        await run_job(deps)
        assert (len(list(read(path))), path.stat().st_size) == (count, size)
    await database.fetch("DELETE FROM audit_chain WHERE number = 2; DELETE FROM operator_acts WHERE id = 2")
    with pytest.raises(ProblemsFound, match="operator-log apply"):
        await run_job(deps)


async def test_a_mail_that_is_changed_for_a_long_time(
    database: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is exported once its statement has ended, as after a wait for a synchronous standby, although others that were
    changed later are in the log."""
    path = tmp_path / "operator.log"
    monkeypatch.setattr(exporting, "OVERLAP", timedelta(0))
    queue = "INSERT INTO outbox (donation_id, kind, seq) VALUES (%(id)s, 'thanks', 0)"
    with closing(psycopg2.connect(database_url)) as connection, connection:
        connection.cursor().execute(queue, {"id": "pi_waits"})
        await database.fetch(queue, {"id": "pi_later"})
        await export(database, path)
    await export(database, path)
    mails = [json.loads(bytes(row)) for batch in map(Batch.decode, read(path)) for row in batch.rows.get("outbox", [])]
    assert [mail["donation_id"] for mail in mails] == ["pi_later", "pi_waits", "pi_later"]

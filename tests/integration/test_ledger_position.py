"""A database that went back in time, or another one, is noticed: by the sidecar while it runs, and by the gate."""

import asyncio
import json
import re
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from psycopg2.extensions import connection as Connection

from daemon.cli.main import main
from daemon.instance.installation import ROOT
from daemon.instance.postgres import ROLE
from health_sidecar.ledger_position import FILE, LedgerPosition, Mark, Position, Reading, advance, find_loss
from sql.database import Database
from tests.support.instance import eventually
from tests.support.ledger import add_ticket, record, scenario
from tests.support.live import PATIENT, TICKET, Live, living
from tests.support.postgres import USER

ACT = "INSERT INTO operator_acts (at, actor, action, donation_id) VALUES (now(), 'alex', 'erase', 'pi_1')"
EVENT = "INSERT INTO stripe_events (id, type, stripe_created, livemode) VALUES ('evt_{}', 'any', now(), false)"


class Copies:
    """A ledger whose database can be replaced by a copy of an earlier time, at the same URL."""

    def __init__(self, url: str, administrator: Connection) -> None:
        self.url = url
        self.name = url.partition("?")[0].rpartition("/")[2]
        self._cursor = administrator.cursor()

    def _end_sessions(self, allow: bool) -> None:
        self._cursor.execute(f"ALTER DATABASE {self.name} ALLOW_CONNECTIONS {allow}")
        self._cursor.execute(
            "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity WHERE datname = %s", [self.name]
        )

    def keep(self) -> None:
        """Copy the ledger as it is now."""
        self._end_sessions(False)
        self._cursor.execute(f"DROP DATABASE IF EXISTS {self.name}_copy")
        self._cursor.execute(f"CREATE DATABASE {self.name}_copy TEMPLATE {self.name} STRATEGY FILE_COPY")
        self._end_sessions(True)

    def restore(self) -> None:
        """The copy takes the ledger's place, as after a failover to a standby that lagged."""
        self._end_sessions(False)
        self._cursor.execute(f"DROP DATABASE {self.name}")
        self._cursor.execute(f"ALTER DATABASE {self.name}_copy RENAME TO {self.name}")
        self._cursor.execute(f"ALTER DATABASE {self.name} ALLOW_CONNECTIONS true")

    def execute(self, sql: str) -> None:
        with closing(psycopg2.connect(self.url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(sql)

    def pay(self, number: int) -> None:
        """A donation more."""
        record(self.url, scenario("paid", number).events)


@pytest.fixture
def copies(database_url: str, administrator: Connection) -> Iterator[Copies]:
    """The test's own ledger, with one donation and a copy of that state."""
    copies = Copies(database_url, administrator)
    copies.pay(0)
    copies.keep()
    yield copies
    administrator.cursor().execute(f"DROP DATABASE IF EXISTS {copies.name}_copy WITH (FORCE)")


def check(url: str, path: Path, *, remember: bool = True) -> str:
    """What a process that starts now finds."""

    async def once() -> str:
        database = Database(
            url, pool_size=1, statement_timeout_s=5, connect_timeout_s=5, application_name="test position"
        )
        try:
            return await LedgerPosition(path, database.fetch).check(remember=remember)
        finally:
            await database.close()

    return asyncio.run(once())


def donationd(folder: Path, url: str, *words: str) -> Result:
    environ = {"DATABASE_URL": url, "READINESS_SOCKET": str(folder / "readiness.sock"), "DONATIOND_STATE": str(folder)}
    return CliRunner().invoke(main, words, env=environ)


def status(live: Live) -> dict[str, Any]:
    """What `donationd status` shows."""
    port = live.sidecar_url.rpartition(":")[2]
    shown: dict[str, Any] = json.loads(
        CliRunner().invoke(main, ["status", "--json"], env={"METRICS_PORT": port}).stdout
    )
    return shown


def seen_entry(path: Path) -> int:
    """The number of the newest journal entry that a host has seen."""
    return int(json.loads(path.read_bytes())["entry"]["key"])


def shown(live: Live) -> str | None:
    """The metric's value."""
    with urllib.request.urlopen(f"{live.sidecar_url}/metrics", timeout=5) as reply:  # noqa: S310 - our own
        found = re.search(rb"^ledger_position_lost (\d)", reply.read(), re.MULTILINE)
    return found[1].decode() if found else None


@pytest.mark.parametrize(
    ("lost", "named"),
    [
        (lambda copies: copies.pay(1), "journal entry 2 of "),
        (lambda copies: copies.execute(EVENT.format(1)), "event evt_1 of "),
        (lambda copies: copies.execute(ACT), "operator action 1 of "),
    ],
    ids=["entry", "event", "action"],
)
def test_a_ledger_that_lacks_something_is_reported_until_it_is_accepted(
    lost: Callable[[Copies], None], named: str, copies: Copies, tmp_path: Path
) -> None:
    """Whatever kind of row was lost; also after a restart, and when it has by then more rows than before."""
    path = tmp_path / FILE
    assert check(copies.url, path) == ""
    lost(copies)
    assert check(copies.url, path) == ""
    seen = path.read_bytes()
    copies.restore()
    problem = check(copies.url, path)
    assert "went back in time" in problem
    assert named in problem
    for number in (2, 3):
        copies.pay(number)
    copies.execute(EVENT.format(2))
    assert check(copies.url, path) == problem
    assert path.read_bytes() == seen
    accepted = donationd(tmp_path, copies.url, "accept-ledger", "--json")
    assert json.loads(accepted.stdout)["entry"]["key"] == "3"
    assert check(copies.url, path) == ""


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_comparison_that_is_advised_lets_mails_be_sent_again(common_day: int, lost_day: int) -> None:
    """It reaches 30 days back from any restore, and includes all that is replayed."""
    began_at = datetime(2024, 1, 1, tzinfo=UTC)
    lost_at, common_at = (began_at + timedelta(days=100 + day) for day in (lost_day, common_day))
    seen = Position(began_at=began_at, entry=Mark("1", lost_at))
    problem = find_loss(seen, Reading(seen, False, frozenset(), common_at))
    replayed, compared = (
        datetime.fromisoformat(f"{day}T00:00:00+00:00") for day in re.findall(r"--since (\S{10})", problem)
    )
    assert compared <= min(replayed, lost_at - timedelta(days=30))
    assert replayed <= common_at - timedelta(days=3)


async def test_on_a_standby_and_without_an_answer_nothing_is_found_or_kept(tmp_path: Path) -> None:
    """A standby may still receive what it lacks, so that it is no loss, and no progress."""
    began_at = datetime(2024, 12, 16, tzinfo=UTC)
    path = tmp_path / FILE
    for is_standby, expected in ((True, False), (False, True)):

        async def fetch(_sql: str, _params: object, is_standby: bool = is_standby) -> list[tuple[object, ...]]:
            return [(began_at, is_standby, *[None] * 6, False, False, False, None)]

        assert await LedgerPosition(path, fetch).check() == ""
        assert path.exists() == expected


@given(st.lists(st.integers(0, 5), min_size=1))
def test_the_event_that_is_remembered_is_the_newest_of_all_that_were_seen(minutes: list[int]) -> None:
    """Where rows are added says little of their order after `prune` has made room between others."""
    began_at = datetime(2024, 12, 16, tzinfo=UTC)
    seen = Position(began_at=began_at)
    for minute in minutes:
        mark = Mark(f"evt_{minute}", began_at.replace(minute=minute))
        seen = advance(seen, Position(began_at=began_at, event=mark))
        seen = advance(seen, Position(began_at=began_at))
    assert seen.event == Mark(f"evt_{max(minutes)}", began_at.replace(minute=max(minutes)))


def test_another_ledger_at_the_same_url_is_reported_as_such(database_url: str, tmp_path: Path) -> None:
    """It is none that went back; an operator who meant it accepts it."""
    path = tmp_path / FILE
    assert check(database_url, path) == ""
    with closing(psycopg2.connect(database_url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("UPDATE schema_migrations SET applied_at = applied_at + interval '1 day'")
    assert "another ledger" in check(database_url, path)
    assert donationd(tmp_path, database_url, "accept-ledger").exit_code == 0
    assert check(database_url, path) == ""


@pytest.mark.parametrize("content", [b"", b"{", b'{"began_at": 5}', b"x" * 10_000])
def test_a_damaged_file_begins_again(content: bytes, database_url: str, tmp_path: Path) -> None:
    """It costs what was remembered, and nothing else; the gate, which only reads it, leaves it as it is."""
    path = tmp_path / FILE
    path.write_bytes(content)
    assert check(database_url, path, remember=False) == ""
    assert path.read_bytes() == content
    assert check(database_url, path) == ""
    assert json.loads(path.read_bytes())["began_at"]


def test_applied_events_may_be_pruned(database_url: str, tmp_path: Path) -> None:
    """After 30 days an event that is gone is no loss."""
    path = tmp_path / FILE
    insert = EVENT.replace("id, ", "processed_at, id, ").replace("VALUES (", "VALUES (now() - interval '{} days', ")
    for days, loss in ((31, False), (29, True)):
        path.unlink(missing_ok=True)
        with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            cursor.execute(insert.format(days, days))
            assert check(database_url, path) == ""
            cursor.execute("DELETE FROM stripe_events")
        assert bool(check(database_url, path)) == loss


def test_a_running_sidecar_and_the_gate_report_it(copies: Copies, tmp_path: Path) -> None:
    """At once, in log, metric and `donationd status`, while deliveries are recorded as before; until it is accepted."""
    copies.execute((ROOT / "deploy" / "roles.sql").read_text())
    add_ticket(copies.url, TICKET)
    copies.keep()
    url = copies.url.replace(USER, ROLE)
    with living(tmp_path, url, copies.url, PATIENT) as live:
        eventually(lambda: live.post().status == 200, "a delivery is recorded")
        eventually(lambda: seen_entry(tmp_path / FILE) > 1, "the sidecar has seen the second entry")
        live.clear_logs()
        copies.restore()
        eventually(lambda: shown(live) == "1", "the metric shows the loss")
        eventually(lambda: live.post().status == 200, "deliveries are recorded as before")
        [line] = live.sidecar.lines("The ledger is not the one that this host has seen")
        assert line["level"] == "error"
        problem = str(line["reason"])
        eventually(lambda: status(live)["problems"] == [problem], "`donationd status` shows the loss, and nothing else")
        assert "donationd replay --since" in problem
        gate = donationd(tmp_path, url, "gate", "--json")
        assert (gate.exit_code, json.loads(gate.stdout)["detail"]) == (0, problem)
        assert donationd(tmp_path, url, "accept-ledger").exit_code == 0
        eventually(lambda: shown(live) == "0", "the report has ended")
        eventually(lambda: status(live)["ok"] is True, "all is well")

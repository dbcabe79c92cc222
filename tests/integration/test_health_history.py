"""The health history: each run is written once with its own time, whatever happens to the database or the process."""

from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg2

from health_sidecar.history import MAX_WAITING, History, Run
from sql.database import Database
from sql.errors import StatementRejected
from tests.support.fake_database import AT, FakeDatabase


def rows(url: str, sql: str) -> list[tuple[Any, ...]]:
    """What PostgreSQL answers to a statement of the test's own."""
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall()) if cursor.description else []


async def test_real_row_is_written_once_with_its_own_time(database: Database, database_url: str) -> None:
    """A row sent twice, as after a crash between insert and note, is one row with the time it happened."""
    for _ in range(2):
        history = History(None, database.fetch)
        history.record(gate_run(0))
        await history.drain()
        assert history.waiting == []
    [row] = rows(database_url, "SELECT kind, ok, state, detail, at FROM health_check_runs")
    assert row == ("gate", False, "failed", "timeout", AT)


def gate_run(second: int, *, ok: bool = False) -> Run:
    """A gate run `second` seconds after AT."""
    return Run(kind="gate", ok=ok, state="failed", detail="timeout", at=AT + timedelta(seconds=second))


async def test_history_survives_the_process_and_keeps_its_times(tmp_path: Path) -> None:
    """Rows noted while the database is away are written by the next process, in order, with their own times."""
    path = tmp_path / "waiting.jsonl"
    away = FakeDatabase(down=["connection refused"])
    first = History(path, away.fetch)
    for second in range(3):
        first.record(gate_run(second))
    await first.drain()
    assert away.recorded == []

    back = FakeDatabase()
    second_process = History(path, back.fetch)
    await second_process.drain()
    assert [row["at"] for row in back.recorded] == [AT + timedelta(seconds=second) for second in range(3)]
    assert not path.exists()


async def test_history_is_bounded_and_keeps_both_ends(tmp_path: Path) -> None:
    """However long an outage lasts, the file stays small and still contains how it began and how it ended."""
    path = tmp_path / "waiting.jsonl"
    history = History(path, FakeDatabase().fetch)
    for second in range(MAX_WAITING + 50):
        history.record(gate_run(second))
    kept = History(path, FakeDatabase().fetch).waiting
    assert len(kept) == MAX_WAITING
    assert (kept[0], kept[-1]) == (gate_run(0), gate_run(MAX_WAITING + 49))


async def test_history_keeps_what_postgresql_refuses(tmp_path: Path) -> None:
    """Without the table (before the first migration) rows wait instead of crashing the sidecar."""
    history = History(
        tmp_path / "waiting.jsonl", FakeDatabase(error=StatementRejected(psycopg2.ProgrammingError("no table"))).fetch
    )
    history.record(gate_run(0))
    await history.drain()
    assert len(history.waiting) == 1


def test_damaged_history_is_skipped_line_by_line(tmp_path: Path) -> None:
    """A half-written or foreign line costs that line only."""
    path = tmp_path / "waiting.jsonl"
    History(path, FakeDatabase().fetch).record(gate_run(1))
    path.write_bytes(b"not json\n" + b'{"later":' + b"[" * 1500 + b"\n" + path.read_bytes() + b'{"kind":"gat')
    assert History(path, FakeDatabase().fetch).waiting == [gate_run(1)]

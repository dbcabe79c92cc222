"""A full disk: below a real PostgreSQL, a real sidecar and a real API, until there is room again.

Each time: a correct status in time, one line that names the trouble, and nothing is lost once it is repaired.
"""

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import psycopg2
import pytest
from psycopg2 import errors

from daemon.instance.installation import ROOT
from sql import migrate
from tests.support.instance import eventually
from tests.support.live import living
from tests.support.postgres import Server
from tests.support.process import WAIT_S
from tests.support.small_disk import SmallDisk, small_disk
from tests.support.trouble import (
    ADD_TICKET,
    FEW_REQUESTS,
    QUICK_PINGS,
    Start,
    assert_logged,
    assert_refuses,
    assert_unavailable,
    done,
    renamed,
    run,
    server_of_its_own,
    starting,
)


@pytest.fixture
def ledger(database_url: str) -> str:
    """A ledger with a ticket and with the role that the processes log in as."""
    run(database_url, (ROOT / "deploy" / "roles.sql").read_text(), ADD_TICKET)
    return database_url


@pytest.fixture
def start(ledger: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts a sidecar and an API on the ledger, as its role unless a URL is given; they have taken a delivery."""
    with starting(ledger, tmp_path_factory) as start:
        yield start


@pytest.fixture
def disk() -> Iterator[SmallDisk]:
    """A disk for some tables, for PostgreSQL's log or for the state folder."""
    with small_disk(12) as disk:
        yield disk


def fill_last_page(url: str) -> None:
    """Takes what room is left in the pages that the events' table has, with rows smaller than any event's."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor, pytest.raises(errors.DiskFull):
        connection.autocommit = True
        for number in range(10_000):
            cursor.execute("INSERT INTO stripe_events VALUES (%s, '', now(), now(), false)", (f"{number}",))


def test_the_disk_of_the_tables_is_full(server: Server, ledger: str, start: Start, disk: SmallDisk) -> None:
    """Deliveries get 503 and the line names the disk; reads are answered, so it stays ready; free space is enough."""
    place = disk.folder("tables", server.user)
    with done(
        ledger,
        [f"CREATE TABLESPACE small LOCATION '{place}'", "ALTER TABLE stripe_events SET TABLESPACE small"],
        ["ALTER TABLE stripe_events SET TABLESPACE pg_default", "DROP TABLESPACE small"],
    ):
        live = start()
        disk.fill()
        fill_last_page(ledger)
        assert_refuses(live, "Database unavailable: disk full", reads=True)
        assert live.ready
        disk.free()
        live.check_well_again()


EMPTY_SEGMENTS = """
SELECT count(*) FROM pg_ls_waldir()
WHERE name ~ '^[0-9A-F]{24}$' AND name > pg_walfile_name(pg_current_wal_insert_lsn())
"""
NEXT_SEGMENT = ["SELECT pg_logical_emit_message(true, '', 'test')", "SELECT pg_switch_wal()"]


def test_the_disk_of_the_write_ahead_log_is_full(disk: SmallDisk, tmp_path: Path) -> None:
    """PostgreSQL ends itself in the middle of a delivery and does not come up again: 503, and the line names the disk.
    Started again with room, by its supervisor, it is all that is needed.
    """

    def make(server: Server) -> None:
        log = ("--wal-segsize=1", "-X", str(disk.folder("log", server.user)))
        server.create(*log)

    with server_of_its_own(make) as own:
        migrate.apply(own.url)
        run(own.url, ADD_TICKET)
        with living(tmp_path, own.url, own.url) as live:
            assert live.post().status == 200
            disk.fill()
            while run(own.url, EMPTY_SEGMENTS) != [(0,)]:
                run(own.url, *NEXT_SEGMENT)
            run(own.url, *NEXT_SEGMENT)
            assert_unavailable(live.post())
            assert_logged(live, "Database unavailable: disk full")
            eventually(lambda: own.has_ended, "PostgreSQL has given up", WAIT_S)
            eventually(lambda: live.last_error == "connection refused", "it is known to be gone", WAIT_S)
            assert_unavailable(live.post())
            assert_unavailable(live.total())
            disk.free()
            own.start()
            live.check_well_again()


def test_the_disk_of_the_state_folder_is_full(ledger: str, start: Start, disk: SmallDisk) -> None:
    """Neither process ends, deliveries are always accepted, and what can't be kept is reported once, not each time."""
    folder = disk.folder("metrics", None)
    live = start(
        READINESS_SOCKET=str(disk.path / "readiness.sock"),
        METRICS_DIR=str(folder),
        PROMETHEUS_MULTIPROC_DIR=str(folder),
        **QUICK_PINGS,
    )
    disk.fill()
    assert live.get("/nowhere").status == 404  # a count that was never counted before
    with renamed(ledger, "stripe_objects"):
        attempts = partial(live.sidecar.lines, "Reconnect attempt")
        eventually(lambda: len(attempts()) > FEW_REQUESTS, "failures to count and to keep", WAIT_S)
        eventually(lambda: len(live.sidecar.lines("cannot keep")) >= 2, "both files are reported", WAIT_S)
    live.check_well_again()
    reported = [(line["path"], line["reason"]) for line in live.sidecar.lines("cannot keep")]
    assert {reason for _path, reason in reported} == {"No space left on device"}
    assert len(set(reported)) == len(reported)  # a third file is that of the ledger's position, if it was due
    disk.free()
    live.check_well_again()
    assert not live.ended


def test_an_api_process_starts_on_a_full_disk(start: Start, disk: SmallDisk) -> None:
    """It takes deliveries, names the files that it cannot write, and writes them once there is room."""
    folder = disk.folder("metrics", None)
    disk.fill()
    live = start(METRICS_DIR=str(folder), PROMETHEUS_MULTIPROC_DIR=str(folder))
    lines = live.api.lines("A file cannot be used")
    assert {line["reason"] for line in lines} == {"No space left on device"}
    assert list(folder.iterdir()) == []
    live.check_well_again()
    disk.free()
    written = {line["path"] for line in lines}
    eventually(lambda: {str(file) for file in folder.iterdir()} == written, "they are written", WAIT_S)
    assert len(live.api.lines("A file cannot be used")) == len(lines)

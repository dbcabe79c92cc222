"""A wrong set-up is retried slowly, the log names the reason, and the processes start once it is repaired."""

import os
import resource
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from psycopg2 import sql

from daemon.runtime.lifecycle import MIN_UPTIME_S
from sql import migrate
from tests.support.instance import RECOVERY_TIMEOUT_S, SIGNING_SECRET, eventually, get, instance_of_its_own
from tests.support.small_disk import small_disk

NAME = "not_yet_there"
SETTINGS = {"STRIPE_WEBHOOK_SECRET": SIGNING_SECRET, "HOST": "127.0.0.1", "API_PROCESSES": "1"}


def test_migrating_is_enough(postgres: str) -> None:
    """No database, then one without tables: a reason each, no FATAL, and ready by itself after `donationd migrate`."""
    url = postgres.format(name=NAME)
    environ = SETTINGS | {"DATABASE_URL": url, "GATE_ATTEMPTS": "1"}
    with instance_of_its_own(environ) as instance, ThreadPoolExecutor(1) as beside:
        began_s = time.monotonic()
        starting = beside.submit(instance.start)

        def said(words: str) -> bool:
            return words in instance.log("sidecar")

        eventually(lambda: said("no such database or role"), "the reason: no database")
        eventually(lambda: get(f"{instance.sidecar}/health/live")[0] == 200, "the sidecar serves meanwhile")
        assert get(f"{instance.api}/health/live")[0] == 0
        with closing(psycopg2.connect(postgres.format(name="postgres"))) as admin:
            admin.autocommit = True
            admin.cursor().execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(NAME)))
        try:
            eventually(lambda: said("Run: donationd migrate"), "the reason: no tables")
            assert not starting.done()
            migrate.apply(url)
            starting.result(timeout=RECOVERY_TIMEOUT_S)
            assert get(f"{instance.api}/health/db")[0] == 200
            supervisor_log = instance.log("supervisord")
            most = 1 + (time.monotonic() - began_s) / MIN_UPTIME_S  # a process run that failed lasts that long
            assert supervisor_log.count("spawned: 'sidecar'") <= most
            assert "FATAL" not in supervisor_log
            assert "BACKOFF" not in supervisor_log
            assert instance.up is not None
            instance.up.terminate()
            assert instance.end() == 0
        finally:
            with closing(psycopg2.connect(postgres.format(name="postgres"))) as admin:
                admin.autocommit = True
                admin.cursor().execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(NAME)))


def test_a_folder_in_the_place_of_a_metrics_file_keeps_nothing_from_starting(database_url: str) -> None:
    """`up` leaves it to the API process, which sets it aside and counts in a file of its own."""
    environ = SETTINGS | {"DATABASE_URL": database_url}
    with instance_of_its_own(environ) as instance:
        migrate.apply(database_url)
        place = instance.state / "metrics" / "counter_0.db"
        place.mkdir(parents=True)
        (place / "file").touch()
        instance.state.chmod(0o700)
        instance.start()
        eventually(place.is_file, "the API process has its files")
        assert (place.with_name("counter_0.db.damaged") / "file").exists()


def test_a_program_that_is_away_for_a_while_starts_once_it_is_back(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that ends while an upgrade replaces the interpreter can't be started, and is not given up."""
    environ = SETTINGS | {"DATABASE_URL": database_url}
    installed = tmp_path / "venv"
    installed.symlink_to(sys.prefix)
    monkeypatch.setattr(sys, "executable", str(installed / "bin" / Path(sys.executable).name))
    with instance_of_its_own(environ) as instance:
        instance.start()
        pid = instance.pids()["api:api_00"]
        installed.unlink()
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: instance.log("supervisord").count("can't find command") > 4, "four attempts")
        installed.symlink_to(sys.prefix)
        eventually(lambda: "api:api_00" in instance.pids(), "it runs again")
        assert "FATAL" not in instance.log("supervisord")


def fill_last_page(log: Path) -> None:
    """No line more fits into the room that the file has."""
    with log.open("ab") as file:
        file.write(b"\n" * (-file.tell() % resource.getpagesize()))


def test_a_full_disk_below_the_logs_ends_nothing(database_url: str) -> None:
    """supervisord can't write to its log that a process was killed; it goes on, and starts the process again."""
    environ = SETTINGS | {"DATABASE_URL": database_url}
    with small_disk(12) as disk:
        state = disk.path / "state"
        with instance_of_its_own({**environ, "DONATIOND_STATE": str(state)}) as instance:
            instance.state = state
            instance.start()
            before = instance.pids()
            fill_last_page(state / "logs" / "supervisord.log")
            disk.fill()
            os.kill(before["api:api_00"], signal.SIGKILL)
            eventually(
                lambda: instance.pids().get("api:api_00", before["api:api_00"]) != before["api:api_00"], "restart"
            )
            eventually(lambda: get(f"{instance.api}/health/db")[0] == 200, "all is well on a full disk")
            assert {**instance.pids(), "api:api_00": 0} == {**before, "api:api_00": 0}
            disk.free()
            assert instance.up is not None
            instance.up.terminate()
            assert instance.end() == 0

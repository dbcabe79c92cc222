"""How `up` ends: within its own limits, with everything it started, and because of what."""

import os
import signal
import time
from contextlib import closing
from pathlib import Path

import psycopg2

from daemon.up import DEFAULTS, ROOT, stop_limits
from tests.instance import Instance, children, eventually, get

SLOW_STOP_S = 20.0  # the tests once waited no longer than this


def test_the_limits_follow_from_the_configuration() -> None:
    """The sum counts every program's stopwaitsecs, the API's own grace and what supervisord needs besides."""
    without = stop_limits(DEFAULTS | {"DONATIOND_INCLUDE": ""})
    embedded = stop_limits(DEFAULTS | {"DONATIOND_INCLUDE": "deploy/embedded.conf"})
    patient = stop_limits(DEFAULTS | {"DONATIOND_INCLUDE": "", "SHUTDOWN_GRACE_MS": "60000"})
    assert embedded.supervisord_s - without.supervisord_s > 30  # PostgreSQL's
    assert patient.supervisord_s - without.supervisord_s == 50
    assert patient.programs_s > 60
    programs = (ROOT / "supervisord.conf").read_text().count("\nstopwaitsecs=")
    assert programs == (ROOT / "supervisord.conf").read_text().count("\ncommand=")


def test_a_disk_that_does_not_answer_delays_the_end_no_longer_than_the_limits(instance: Instance) -> None:
    """PostgreSQL's checkpoint at its end never finishes: `up` ends within the sum of its limits and leaves nothing
    running, and the next start has everything that was committed.
    """
    instance.start()
    with closing(psycopg2.connect(instance.environ["DATABASE_URL"])) as database, database:
        database.cursor().execute("INSERT INTO recording_tickets (id) VALUES ('story-1')")
    os.kill(checkpointer(instance), signal.SIGSTOP)
    assert instance.up is not None
    began_s = time.monotonic()
    instance.up.send_signal(signal.SIGHUP)
    assert instance.end() == 0
    assert SLOW_STOP_S < time.monotonic() - began_s < instance.stop_limit_s
    assert instance.living() == []

    instance.start()
    with closing(psycopg2.connect(instance.environ["DATABASE_URL"])) as database, database.cursor() as cursor:
        cursor.execute("SELECT id FROM recording_tickets")
        assert cursor.fetchall() == [("story-1",)]
    check_no_zombie_stays(instance)


def checkpointer(instance: Instance) -> int:
    """The process of PostgreSQL that makes everything durable when the server ends."""
    processes = children(instance.pids()["postgres"])
    [found] = [pid for pid in processes if b"checkpointer" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return found


def check_no_zombie_stays(instance: Instance) -> None:
    """What `up` adopts, such as the processes of a PostgreSQL that was killed, is collected when it has ended."""
    assert instance.up is not None
    adopted = children(postgres := instance.pids()["postgres"])
    os.kill(postgres, signal.SIGKILL)
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in adopted), "no zombie stays")
    eventually(lambda: get(f"{instance.api}/health/db")[0] == 200, "PostgreSQL is back")

"""How `up` ends: within its own limits, with everything it started, and because of what."""

import os
import pty
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from fcntl import ioctl
from pathlib import Path

import psycopg2
import pytest

from daemon.instance.environment import DEFAULTS
from daemon.instance.installation import ROOT
from daemon.instance.stop_signals import FOLLOW_S
from daemon.instance.supervisord import stop_limits
from tests.support.instance import (
    RECOVERY_TIMEOUT_S,
    SECRETS,
    Instance,
    children,
    eventually,
    get,
    instance_of_its_own,
)

SLOW_STOP_S = 20.0  # the tests once waited no longer than this


@pytest.fixture(scope="module")
def instance() -> Iterator[Instance]:
    """An instance that each test starts and stops; its database is made once."""
    with instance_of_its_own(SECRETS | {"API_PROCESSES": "1"}) as instance:
        yield instance


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
    assert instance.running_processes() == []

    instance.start()
    with closing(psycopg2.connect(instance.environ["DATABASE_URL"])) as database, database.cursor() as cursor:
        cursor.execute("SELECT id FROM recording_tickets")
        assert cursor.fetchall() == [("story-1",)]
    check_no_zombie_stays(instance)
    instance.up.terminate()
    assert instance.end() == 0


def checkpointer(instance: Instance) -> int:
    """The process of PostgreSQL that makes everything durable when the server ends."""
    found = []
    for pid in children(instance.pids()["postgres"]):
        with suppress(OSError):  # one of the others ends meanwhile
            if b"checkpointer" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    [checkpointer] = found
    return checkpointer


def check_no_zombie_stays(instance: Instance) -> None:
    """What `up` adopts, such as the processes of a PostgreSQL that was killed, is collected when it has ended."""
    assert instance.up is not None
    adopted = children(postgres := instance.pids()["postgres"])
    os.kill(postgres, signal.SIGKILL)
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in adopted), "no zombie stays")
    eventually(lambda: get(f"{instance.api}/health/db")[0] == 200, "PostgreSQL is back")


class Make:
    """`make run` as the leader of a terminal's session, as `xterm -e make run` and `ssh -t host make run` start it."""

    def __init__(self, instance: Instance) -> None:
        self._terminal, inside = pty.openpty()
        self.output = Path(f"{instance.state}.output")
        # Everything is installed already, wherever that is: nothing is made but the command.
        words = ["run", f"VENV={sys.prefix}", "-o", f"{sys.prefix}/.runtime"]
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                ["make", *words],
                cwd=ROOT,
                env=instance.given_environ,
                stdin=inside,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=lambda: ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - there are no threads
            )
        os.close(inside)

    def close_terminal(self) -> None:
        """As a person closes the window."""
        os.close(self._terminal)


@contextmanager
def make_running(instance: Instance) -> Iterator[Make]:
    """From when it is ready; whatever happens, nothing of it is left."""
    if shutil.which("make") is None or not Path(sys.prefix, "bin", "donationd").exists():
        pytest.skip("make, or donationd's command, is missing")
    make = Make(instance)
    try:
        eventually(lambda: "Ctrl-C stops" in make.output.read_text() or make.process.poll() is not None, "ready")
        assert make.process.poll() is None, make.output.read_text()
        yield make
    finally:
        if instance.running_processes():
            os.kill(int((instance.run / "supervisord.pid").read_text()), signal.SIGTERM)
            eventually(lambda: not instance.running_processes(), "the end", instance.stop_limit_s)
        make.process.wait(RECOVERY_TIMEOUT_S)


@pytest.mark.parametrize(
    "happens",
    [
        pytest.param(Make.close_terminal, id="terminal closed"),
        pytest.param(lambda make: make.process.send_signal(signal.SIGHUP), id="make hung up"),
        pytest.param(lambda make: make.process.kill(), id="make killed"),
    ],
)
def test_what_reaches_make_alone_stops_everything(instance: Instance, happens: Callable[[Make], None]) -> None:
    """Whatever ends `make run`, everything that it started ends too."""
    with make_running(instance) as make:
        happens(make)
        eventually(lambda: not instance.running_processes(), "everything has ended", instance.stop_limit_s)
        assert make.process.wait(RECOVERY_TIMEOUT_S) != 0


def test_up_outlives_the_process_that_started_it(instance: Instance) -> None:
    """Without --stop-with `up` goes on when its parent has ended, as under nohup or as a daemon, until a signal."""
    command = f"{sys.executable} -m daemon.cli.main up --embedded >{instance.state}.output 2>&1 & echo $!"
    shell = subprocess.run(
        ["sh", "-c", command], env=instance.given_environ, cwd=ROOT, capture_output=True, text=True, check=True
    )
    output = Path(f"{instance.state}.output")
    try:
        eventually(lambda: "Ctrl-C stops" in output.read_text(), "ready")
        time.sleep(4 * FOLLOW_S)  # nothing may happen, so there is nothing to wait for
        assert get(f"{instance.api}/health/db")[0] == 200
    finally:
        os.kill(int(shell.stdout), signal.SIGTERM)
        eventually(lambda: not instance.running_processes(), "everything has ended", instance.stop_limit_s)

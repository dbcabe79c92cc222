"""A log that nothing reads delays no request: supervisord is stopped, and everything else goes on."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from prometheus_client.parser import text_string_to_metric_families

from daemon.runtime.logging import DROPPED
from daemon.simulator import sender
from tests.support.instance import RECOVERY_TIMEOUT_S, Instance, children, eventually, get, instance_of_its_own

# A healthy reply takes milliseconds, and some seconds on a busy machine; a process that waits for its log answers only
# when supervisord goes on.
IN_TIME_S = 20.0
PAUSE_S = 0.1  # between rounds of requests: of each kind of line the API writes ten in a second, and counts the others
ROUNDS = 10  # between two looks at the metrics
# Every ping is a line of the sidecar's log.
SETTINGS = {
    "API_PROCESSES": "1",
    "LOG_FORMAT": "json",
    "LOG_LEVEL": "DEBUG",
    "WATCHDOG_INTERVAL_MS": "10",
}

# A program of its own, because psycopg2 itself waits for the server without any limit.
FAILING_STATEMENTS = """
import contextlib, sys, psycopg2
session = psycopg2.connect(sys.argv[1])
for _ in range(3):
    with contextlib.suppress(psycopg2.errors.DivisionByZero):
        session.cursor().execute("SELECT 1 / 0")
    session.rollback()
"""


@pytest.fixture(scope="module")
def site() -> Iterator[Instance]:
    """A whole instance with many lines in its logs, started."""
    with instance_of_its_own(SETTINGS) as instance:
        instance.start()
        yield instance


@contextmanager
def supervisord_stopped(site: Instance) -> Iterator[None]:
    """supervisord reads nothing in the block."""
    assert site.up is not None
    [supervisord] = children(site.up.pid)
    os.kill(supervisord, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(supervisord, signal.SIGCONT)


def fill_log(pid: int) -> None:
    """Fills the pipe between this process and supervisord, through an open file of our own, with lines of its kind."""
    pipe = os.open(f"/proc/{pid}/fd/2", os.O_WRONLY | os.O_NONBLOCK)
    line = b'{"event": "' + b"." * 100 + b'"}\n'
    try:
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(pipe, line)
    finally:
        os.close(pipe)


IGNORED = ("customer.created", {"id": "cus_1", "object": "customer"})
FAILED = ("charge.succeeded", {"id": "ch_1", "object": "charge", "amount": "a text where a number belongs"})


def deliver(site: Instance, event_id: str, kind: tuple[str, dict[str, str]]) -> int:
    """Posts a signed event of this type about this object; returns the reply's status, 0 if late."""
    event = {
        **{"id": event_id, "object": "event", "type": kind[0], "created": int(time.time()), "livemode": False},
        "data": {"object": kind[1]},
    }
    body = sender.encode(event)
    headers = {"Stripe-Signature": sender.sign(body, site.signing_secret, int(time.time()))}
    request = urllib.request.Request(f"{site.api}/webhooks/stripe", body, headers)  # noqa: S310 - our own
    try:
        with urllib.request.urlopen(request, timeout=IN_TIME_S) as reply:  # noqa: S310 - our own
            status: int = reply.status
            return status
    except urllib.error.HTTPError as reply:
        with reply:
            return reply.code
    except OSError:
        return 0


def dropped(site: Instance, process: str) -> float:
    """`log_lines_dropped_total` of the API processes or of the sidecar."""
    with urllib.request.urlopen(f"{site.sidecar}/metrics", timeout=IN_TIME_S) as reply:  # noqa: S310 - our own
        page = reply.read().decode()
    return sum(
        sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "log_lines_dropped_total" and sample.labels["process"] == process
    )


def check_in_time(answer: Callable[[], int], status: int) -> None:
    """It answers with this status, within IN_TIME_S."""
    began_s = time.monotonic()
    assert answer() == status
    assert time.monotonic() - began_s < IN_TIME_S


def flood(site: Instance) -> None:
    """Requests until both processes have dropped lines; each is answered in time."""
    for number in itertools.count():
        if number % ROUNDS == 0 and dropped(site, "api") and dropped(site, "sidecar"):
            return
        check_answers(site, number)
        time.sleep(PAUSE_S)


def check_answers(site: Instance, number: int) -> None:
    """Three deliveries that each write a line of another kind, and the health checks."""
    check_in_time(lambda: deliver(site, f"evt_{number:0200}", IGNORED), 200)
    check_in_time(lambda: deliver(site, f"evt_{number:0200}", IGNORED), 200)
    check_in_time(lambda: deliver(site, f"evt_failed_{number:0200}", FAILED), 422)
    check_in_time(lambda: get(f"{site.api}/health/live")[0], 200)
    check_in_time(lambda: get(f"{site.sidecar}/health/live")[0], 200)


def dropped_lines(site: Instance, name: str) -> list[str]:
    """The lines of a log that count dropped lines; the last line of the file may not be complete yet."""
    *lines, _ = site.log(name).split("\n")
    return [json.loads(line)["event"] for line in lines if DROPPED.partition("{}")[2] in line]


def test_a_stopped_supervisord_delays_no_request_and_lost_lines_are_counted(site: Instance) -> None:
    """While nothing reads the logs every request is answered in time; then each log has one line with the number of
    lines that are missing, and the metric agrees."""
    pids = site.pids()
    with supervisord_stopped(site):
        for name in ("api:api_00", "sidecar"):
            fill_log(pids[name])
        flood(site)
        assert get(f"{site.api}/health/db")[0] == 200
    check_counted(site, "api_00", "api")
    check_counted(site, "sidecar", "sidecar")
    assert site.pids() == pids


def check_counted(site: Instance, name: str, process: str) -> None:
    """The log `name` has one line that counts what is missing, and the metric has the same number."""
    eventually(lambda: bool(dropped_lines(site, name)), f"{name} counts what it dropped")
    [line] = dropped_lines(site, name)
    eventually(lambda: line == DROPPED.format(int(dropped(site, process))), "the metric has the same number")


def test_a_stopped_supervisord_delays_no_session_of_the_embedded_database(site: Instance) -> None:
    """A line that PostgreSQL cannot write to its log is lost, and the session that caused it goes on."""
    postgres, url = site.pids()["postgres"], site.environ["DATABASE_URL"]
    with supervisord_stopped(site):
        fill_log(postgres)
        failing = [sys.executable, "-c", FAILING_STATEMENTS, url]
        assert subprocess.run(failing, timeout=RECOVERY_TIMEOUT_S, check=False).returncode == 0

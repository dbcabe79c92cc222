"""Which process hangs, decided check by check, with a clock of our own; and a heartbeat, seen from another process."""

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from health_sidecar.hang_detection import (
    CHECK_INTERVAL_S,
    HANG_CHECKS,
    MAX_PAUSE_S,
    START_CHECKS,
    HangDetector,
    Observation,
)

Found = dict[str, Observation]


def beating(beat: int, pid: int = 7) -> Found:
    return {"sidecar": Observation(pid, b"%d" % beat)}


def checks(detector: HangDetector, *found: Found, start_s: float = 0.0) -> list[str | None]:
    """What each check finds, at the usual distance."""
    results = [detector.check(each, start_s + number * CHECK_INTERVAL_S) for number, each in enumerate(found)]
    return [hung.name if hung else None for hung in results]


def test_a_process_whose_heartbeat_stands_still_hangs() -> None:
    """It is found at the third check after the last heartbeat, and again only after as many more."""
    found = checks(HangDetector(), *[beating(1)] * (2 * HANG_CHECKS + 1))
    assert found == [None, None, None, "sidecar", None, None, "sidecar"]


def test_one_beat_in_fifteen_seconds_is_enough() -> None:
    """A process that is slow is not killed."""
    assert not any(checks(HangDetector(), *(beating(number // HANG_CHECKS) for number in range(30))))


def test_a_process_that_starts_has_a_minute() -> None:
    """No heartbeat yet: longer patience, and a new pid begins anew."""
    starting = {"sidecar": Observation(7, None)}
    found = checks(HangDetector(), *[starting] * (START_CHECKS + 1))
    assert found == [None] * START_CHECKS + ["sidecar"]
    assert not any(checks(HangDetector(), *({"sidecar": Observation(pid, None)} for pid in range(3 * START_CHECKS))))


@given(st.lists(st.floats(0, 10 * MAX_PAUSE_S), max_size=60))
def test_whatever_the_clock_does_what_beats_between_checks_is_left_alone(pauses: list[float]) -> None:
    """Whatever the clock does between two checks, it kills no process that has gone on between them."""
    detector, now_s = HangDetector(), 0.0
    for beat, pause_s in enumerate(pauses):
        now_s += pause_s
        assert detector.check(beating(beat), now_s) is None


def test_a_time_in_which_the_machine_stood_still_does_not_count() -> None:
    """All heartbeats are old when a suspended machine goes on: each process has all its time again."""
    detector = HangDetector()
    assert not any(checks(detector, *[beating(1)] * HANG_CHECKS))
    found = checks(detector, *[beating(1)] * HANG_CHECKS, start_s=3600)
    assert not any(found)


def test_ticks_that_had_to_wait_are_one_check() -> None:
    """A listener that went on after a pause gets its ticks all at once, before any process could beat."""
    detector = HangDetector()
    assert not any(checks(detector, beating(1), beating(1)))
    assert [detector.check(beating(1), 2 * CHECK_INTERVAL_S + number / 1000) for number in range(100)] == [None] * 100


def test_where_all_hang_they_are_replaced_one_at_a_time() -> None:
    """A machine that is too slow as a whole does not lose every process at once."""
    found = {f"api:api_0{slot}": Observation(slot + 1, b"1") for slot in range(3)}
    killed = checks(HangDetector(), *[found] * (HANG_CHECKS + 3))[HANG_CHECKS:]
    assert sorted(map(str, killed)) == sorted(found)


# A stand-in for supervisord: two processes in groups that are watched, one in another, one that never beats.
PARENT = """
import os, subprocess, sys

def child(code, group, name):
    environ = {**os.environ, "SUPERVISOR_GROUP_NAME": group, "SUPERVISOR_PROCESS_NAME": name}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

BEATING = '''
from daemon.runtime.heartbeat import Heartbeat
heartbeat = Heartbeat()
while input():
    heartbeat.beat()
    print("beaten", flush=True)
'''
CHECKING = '''
from health_sidecar.hang_detection import find
for name, observation in sorted(find({"api", "sidecar"}).items()):
    print(name, observation.pid, observation.beat)
'''
beating = child(BEATING, "api", "api_03")
others = [child("input()", name, name) for name in ("sidecar", "postgres")]
for _ in range(2):
    print("beat", file=beating.stdin, flush=True)
    beating.stdout.readline()
    print(child(CHECKING, "listener", "listener").communicate()[0], end="")
print(beating.pid, others[0].pid)
for process in (beating, *others):
    process.kill()
    process.communicate()
"""


def test_a_heartbeat_is_seen_from_outside() -> None:
    """Under supervisord's name of its process; one without a heartbeat is seen too, another group's is not."""
    printed = subprocess.run([sys.executable, "-c", PARENT], capture_output=True, text=True, check=True).stdout
    *seen, pids = printed.splitlines()
    api, sidecar = pids.split()
    assert seen == [
        f"api:api_03 {api} b'1'",
        f"sidecar {sidecar} None",
        f"api:api_03 {api} b'2'",
        f"sidecar {sidecar} None",
    ]

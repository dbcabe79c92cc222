"""Processes that hang: found by their heartbeats, and killed so that supervisord's autorestart starts them again.

supervisord's event listener checks the sidecar and the API processes, the sidecar checks the listener. Each check
compares a process with the check before, never with a clock: after a machine was suspended each process is seen to
beat again, whatever the clocks have done.
"""

import contextlib
import math
import os
import signal
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from daemon.runtime import heartbeat
from daemon.runtime.supervisor_rpc import process_name

log = structlog.get_logger()

CHECK_INTERVAL_S = 5.0  # between two checks: supervisord's TICK_5 for the listener
# A check that comes earlier is a tick that was delayed; one that comes later follows a time in which the machine or the
# checking process did not run. Neither says anything about the other processes.
MIN_PAUSE_S = 3.0
MAX_PAUSE_S = 10.0
# A process has not run its main loop for 15 s: a request may take that long (REQUEST_DEADLINE_MS), so what it had
# accepted is lost anyway. A slow disk or a machine that swaps delays a process only for some seconds.
HANG_CHECKS = 3
# Until the first heartbeat: a minute. On a busy machine Python and its imports take several seconds.
START_CHECKS = 12


@dataclass(frozen=True)
class Observation:
    """A process as one check finds it: its pid, and the number of its heartbeat, None before the first one."""

    pid: int
    beat: bytes | None


@dataclass(frozen=True)
class Hung:
    """A process that hangs."""

    name: str
    pid: int
    has_started: bool


class HangDetector:
    """Decides from a series of checks which process hangs. No I/O: `now_s` is the time of a monotonic clock."""

    def __init__(self) -> None:
        self._last: dict[str, Observation] = {}
        self._unchanged: dict[str, int] = {}  # checks in a row
        self._checked_s = -math.inf

    def check(self, found: Mapping[str, Observation], now_s: float) -> Hung | None:
        """The process that hangs, if one does; of several the one that has hung longest.

        One at a time, so that a machine that is too slow as a whole does not lose all of them at once.
        """
        pause_s = now_s - self._checked_s
        if pause_s < MIN_PAUSE_S:
            return None
        last = self._last if pause_s <= MAX_PAUSE_S else {}
        self._unchanged = {
            name: self._unchanged[name] + 1 if observed == last.get(name) else 0 for name, observed in found.items()
        }
        self._last, self._checked_s = dict(found), now_s
        hung = [name for name, checks in self._unchanged.items() if checks >= _limit(found[name])]
        if not hung:
            return None
        name = max(hung, key=self._unchanged.__getitem__)
        self._unchanged[name] = 0  # the next check may still find it, and it must not be killed twice
        return Hung(name, found[name].pid, found[name].beat is not None)


def _limit(observation: Observation) -> int:
    """After how many checks without a new heartbeat a process hangs."""
    return START_CHECKS if observation.beat is None else HANG_CHECKS


def find(groups: Collection[str]) -> dict[str, Observation]:
    """supervisord's processes of these groups, by the name that supervisorctl shows.

    They are read from /proc, as the other children of this process's parent. Raises OSError where /proc cannot be read.
    """
    parent = os.getppid()
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    found = {}
    for pid in map(int, children):
        try:
            environ = _environ(pid)
            group = environ.get(b"SUPERVISOR_GROUP_NAME", b"").decode()
            if group in groups:
                name = process_name(group, environ[b"SUPERVISOR_PROCESS_NAME"].decode())
                found[name] = Observation(pid, _beat(pid))
        except OSError:
            continue  # it has just ended, or belongs to another user
    return found


def _environ(pid: int) -> dict[bytes, bytes]:
    """The environment that a process was started with."""
    lines = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return dict(line.split(b"=", 1) for line in lines if b"=" in line)


def _beat(pid: int) -> bytes | None:
    """The number of its heartbeat. That file is among the first that a process opens, so that few are checked."""
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed
            if str(descriptor.readlink()).startswith(f"/memfd:{heartbeat.NAME}"):
                return descriptor.read_bytes()
    return None


def kill(hung: Hung) -> None:
    """End a process that hangs; supervisord starts it again. SIGKILL, because what hangs handles no other signal."""
    does = "does not run its main loop" if hung.has_started else "did not get ready after its start"
    log.error(
        f"[Supervisor] 🚨 {hung.name} hangs: it {does}. It is killed, and supervisord starts it again", pid=hung.pid
    )
    with contextlib.suppress(ProcessLookupError):
        os.kill(hung.pid, signal.SIGKILL)

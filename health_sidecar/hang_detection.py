"""Heartbeats: how the sidecar, the API processes and supervisord's listener show that they do not hang.

A process counts up a number in a file in memory (memfd) from its main loop. No disk can delay that, no other process
can remove the file, and it ends with its process. Others find it under /proc. The listener looks at the sidecar and
the API processes, the sidecar at the listener; what hangs is killed, and supervisord's autorestart starts it again.

A look compares a process with the look before, never with a clock: after a machine was suspended each process is seen
to beat again, whatever the clocks have done.
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

LOOK_S = 5.0  # between two looks: supervisord's TICK_5 for the listener
# A look that comes earlier is a tick that had to wait, one that comes later follows a time in which the machine or the
# watching process stood still. Neither says anything about others.
MIN_PAUSE_S = 3.0
MAX_PAUSE_S = 10.0
# A process has not run its main loop for 15 s: that long a request may take (REQUEST_DEADLINE_MS), so what it had
# accepted is lost anyway. A slow disk or a machine that swaps holds a process up for some seconds only.
HANG_LOOKS = 3
# Until the first heartbeat: a minute. On a busy machine Python and its imports take several seconds.
START_LOOKS = 12


@dataclass(frozen=True)
class Sighting:
    """A process as one look finds it: its pid, and its heartbeat's number, None where it has not begun."""

    pid: int
    beat: bytes | None


@dataclass(frozen=True)
class Hung:
    """A process that hangs."""

    name: str
    pid: int
    has_started: bool


class Watch:
    """Judges by one look after another who hangs. No I/O: `now_s` is a monotonic clock's."""

    def __init__(self) -> None:
        self._last: dict[str, Sighting] = {}
        self._unchanged: dict[str, int] = {}  # looks in a row
        self._looked_s = -math.inf

    def look(self, found: Mapping[str, Sighting], now_s: float) -> Hung | None:
        """The process that hangs, if any does; the longest one where several do. One at a time, so that a machine that
        is too slow as a whole does not lose all of them at once.
        """
        pause_s = now_s - self._looked_s
        if pause_s < MIN_PAUSE_S:
            return None
        last = self._last if pause_s <= MAX_PAUSE_S else {}
        self._unchanged = {
            name: self._unchanged[name] + 1 if sighting == last.get(name) else 0 for name, sighting in found.items()
        }
        self._last, self._looked_s = dict(found), now_s
        hung = [name for name, looks in self._unchanged.items() if looks >= _patience(found[name])]
        if not hung:
            return None
        name = max(hung, key=self._unchanged.__getitem__)
        self._unchanged[name] = 0  # the next look may still find it: not to be killed twice
        return Hung(name, found[name].pid, found[name].beat is not None)


def _patience(sighting: Sighting) -> int:
    """After how many looks that found nothing new a process hangs."""
    return START_LOOKS if sighting.beat is None else HANG_LOOKS


def find(groups: Collection[str]) -> dict[str, Sighting]:
    """supervisord's processes of these groups, by the name that supervisorctl shows, as the kernel knows them: they are
    the other children of our parent. Raises OSError where /proc can't be read.
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
                found[name] = Sighting(pid, _beat(pid))
        except OSError:
            continue  # it has just ended, or is another user's
    return found


def _environ(pid: int) -> dict[bytes, bytes]:
    """The environment that a process was started with."""
    lines = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return dict(line.split(b"=", 1) for line in lines if b"=" in line)


def _beat(pid: int) -> bytes | None:
    """The number of its heartbeat. It is among the first files that a process opens, so that few are looked at."""
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

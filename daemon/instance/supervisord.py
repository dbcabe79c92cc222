"""supervisord as a child of `up`: started, watched, and stopped together with everything that it started."""

import configparser
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from daemon.instance.console import say
from daemon.instance.environment import UNSHARED, api_stop_s
from daemon.instance.installation import ROOT, home_folder
from daemon.runtime.lifecycle import die_with_parent

STOP_SPARE_S = 3.0  # supervisord works once a second: it stops a group, kills it, and notices that it has ended
PROGRAMS_SPARE_S = 10.0  # beyond the longest stopwaitsecs, for programs that end without supervisord
ORPHANS_S = 5.0  # for what is left after supervisord has ended in order
KILLED_S = 5.0  # from SIGKILL to the end, unless the disk does not answer
OUTPUT_LINES = 20  # kept of what supervisord prints; the last one says why it ended
OUTPUT_TIMEOUT_S = 1.0  # to read the last line after the end of supervisord
POLL_S = 0.1
PR_SET_CHILD_SUBREAPER = 36


def start(environ: Mapping[str, str], state: Path, lock: int) -> subprocess.Popen[bytes]:
    """Starts supervisord in its own session, so that Ctrl-C does not reach it; it keeps the lock open while it runs."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    user = ["-u", "root"] if os.geteuid() == 0 else []  # without it, its log begins with a warning about root
    say("starting supervisord")
    return subprocess.Popen(
        [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(ROOT / "supervisord.conf"), *user],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=home_folder(),
        env={name: value for name, value in environ.items() if name not in UNSHARED},
        start_new_session=True,
        pass_fds=[lock],
        preexec_fn=partial(die_with_parent, signal.SIGTERM),  # noqa: PLW1509 - there are no threads yet
    )


class Output:
    """The last lines that supervisord prints, besides its log; they are read all the time.

    It prints what it can't write to its log. If it printed to a file, a full disk would refuse that as well, and
    supervisord would end.
    """

    def __init__(self, supervisord: subprocess.Popen[bytes]) -> None:
        self._lines: deque[str] = deque(maxlen=OUTPUT_LINES)
        assert supervisord.stdout is not None  # noqa: S101 - for the type checker
        self._reader = threading.Thread(target=self._read, args=(supervisord.stdout,), daemon=True)
        self._reader.start()

    def _read(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                text = line.decode(errors="replace").strip()
                if text and not text.startswith("For help"):
                    self._lines.append(text)

    def last(self) -> str | None:
        """The last line, after the end of supervisord; None if it printed none."""
        self._reader.join(OUTPUT_TIMEOUT_S)
        return self._lines[-1][:500] if self._lines else None


@dataclass(frozen=True)
class StopLimits:
    """How long each step of a stop may take. Their sum is the longest time from a stop signal to the end of `up`.

    Attributes:
        supervisord_s: supervisord ends its programs, one group after the other.
        programs_s: after the end of a supervisord that did not end its programs, they all end by themselves.
        killed_s: what still runs after that is killed, and ends.
    """

    supervisord_s: float
    programs_s: float
    killed_s: float = KILLED_S

    @property
    def total_s(self) -> float:
        """The sum."""
        return self.supervisord_s + self.programs_s + self.killed_s


def stop_limits(environ: Mapping[str, str]) -> StopLimits:
    """The limits that follow from the `stopwaitsecs` of every program in the configuration.

    Args:
        environ: SHUTDOWN_GRACE_MS and DONATIOND_INCLUDE are read.
    """
    files = [ROOT / name for name in ("supervisord.conf", *environ["DONATIOND_INCLUDE"].split())]
    configuration = configparser.RawConfigParser()
    configuration.read(files)
    known = {"ENV_DONATIOND_API_STOP_SECONDS": str(api_stop_s(environ))}
    programs = [section for section in configuration.values() if "command" in section]
    waits_s = [int(program["stopwaitsecs"] % known) for program in programs]
    return StopLimits(
        supervisord_s=sum(waits_s) + STOP_SPARE_S * len(waits_s), programs_s=max(waits_s) + PROGRAMS_SPARE_S
    )


def stop(supervisord: subprocess.Popen[bytes], limits: StopLimits) -> None:
    """Stops supervisord and waits until it and everything that it started have ended, no longer than the limits say."""
    supervisord.terminate()
    try:
        in_order = supervisord.wait(limits.supervisord_s) == 0
    except subprocess.TimeoutExpired:
        supervisord.kill()
        in_order = False
    # They got this signal when supervisord ended, except for one that had not asked the kernel for it yet.
    _signal_children(signal.SIGTERM)
    wait_s = ORPHANS_S if in_order else limits.programs_s
    since_s = time.monotonic()
    while _reap():
        waited_s = time.monotonic() - since_s
        if waited_s > wait_s + limits.killed_s:
            say(f"these processes can't be ended, as if their disk did not answer: {', '.join(map(str, _children()))}")
            return
        if waited_s > wait_s:
            _signal_children(signal.SIGKILL)
        time.sleep(POLL_S)


def collect(supervisord: subprocess.Popen[bytes], *, until_it_ends: bool = False) -> int | None:
    """Collects adopted processes that have ended, so that none stays a zombie.

    Returns:
        supervisord's exit status once it has ended; None if it still runs (with `until_it_ends` it waits).
    """
    wait = 0 if until_it_ends else os.WNOHANG
    while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | wait):
        if ended.si_pid == supervisord.pid:
            return supervisord.wait()
        os.waitpid(ended.si_pid, 0)
    return None


def _reap() -> bool:
    """Collects children that have ended, supervisord's orphans included; returns whether any still runs."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _signal_children(number: signal.Signals) -> None:
    for pid in _children():
        with contextlib.suppress(OSError):
            os.kill(pid, number)


def _children() -> list[int]:
    """Every child of this process, adopted ones included."""
    ours = f"PPid:\t{os.getpid()}\n"
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            if ours in status.read_text():
                found.append(int(status.parent.name))
    return found

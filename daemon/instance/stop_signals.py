"""What stops `up`: SIGINT, SIGTERM, SIGHUP, or the end of the process that it follows."""

import os
import signal
from pathlib import Path
from types import FrameType
from typing import NoReturn

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FOLLOW_S = 0.5


class Stop(BaseException):
    """A stop signal was received, or the process that is followed has ended."""


def catch_stop_signals() -> None:
    """From now on the first of the stop signals raises Stop; a SIGHUP ignored from outside (nohup) stays ignored."""
    for number in STOP_SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _raise_stop)


def _raise_stop(_number: int, _frame: FrameType | None) -> NoReturn:
    ignore_stop_signals()
    raise Stop


def follow(parent: int) -> None:
    """From now on checks the parent process twice a second, and raises Stop when it has ended or is about to."""

    def check(number: int = signal.SIGALRM, frame: FrameType | None = None) -> None:
        if os.getppid() != parent or _waits_to_end(parent):
            _raise_stop(number, frame)

    signal.signal(signal.SIGALRM, check)
    signal.setitimer(signal.ITIMER_REAL, FOLLOW_S, FOLLOW_S)
    check()


def _waits_to_end(pid: int) -> bool:
    """Whether a process has received a stop signal and waits for its children before it ends by it.

    GNU make does that after a hang-up, which the system sends only to the leader of the terminal's session: make sends
    nothing to its children, and would wait without a limit. It has then blocked the signal, and has no handler for it.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    fields = dict(line.split(":\t", 1) for line in lines if line.startswith("Sig"))
    blocked, ignored, caught = (int(fields[name], 16) for name in ("SigBlk", "SigIgn", "SigCgt"))
    return any(blocked & ~ignored & ~caught & 1 << (number - 1) for number in STOP_SIGNALS)


def ignore_stop_signals() -> None:
    """Stopping is bounded; a second Ctrl-C must not cut it short and leave processes running."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number in (signal.SIGALRM, *STOP_SIGNALS):  # an alarm may have come just before the timer was stopped
        signal.signal(number, _already_stopping)


def _already_stopping(_number: int, _frame: FrameType | None) -> None:
    """A handler and not SIG_IGN: a signal that came in between would raise in the middle of the stop."""

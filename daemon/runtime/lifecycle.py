"""How a process of ours lives below supervisord: it dies with its parent and never ends too early.

Shared by the sidecar, the API processes and the embedded database's starter.
"""

import ctypes
import os
import signal
import time
from collections.abc import Callable, Mapping

# supervisord adds a second of waiting per exit that comes before `startsecs` and gives up in the end. A failed life
# this long, with `startsecs` below it, makes every restart an ordinary one.
MIN_UPTIME_S = 5.0

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def die_with_parent(sig: signal.Signals = signal.SIGTERM) -> None:
    """Ask Linux to send us `sig` when the process that started us dies, be it by kill -9.

    Survives exec, not fork. Raises OSError if the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(sig), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def supervised(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether supervisord started us: it sets SUPERVISOR_ENABLED for its children."""
    return "SUPERVISOR_ENABLED" in environ


def remaining_s(
    started_monotonic_s: float,
    environ: Mapping[str, str] = os.environ,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> float:
    """Seconds that a life begun at `started_monotonic_s` still has to last before it may end in a failure."""
    if not supervised(environ):
        return 0.0
    return max(0.0, started_monotonic_s + MIN_UPTIME_S - clock())


def wait_min_uptime(started_monotonic_s: float) -> None:
    """Sleep until the minimum length of a failed life is reached; not at all outside supervisord."""
    time.sleep(remaining_s(started_monotonic_s))

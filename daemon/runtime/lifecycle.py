"""How a process of ours lives below supervisord: it dies with its parent, never ends too early, and dumps no core.

Shared by the sidecar, the API processes and the embedded database's starter.
"""

import ctypes
import os
import resource
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

# supervisord adds a second of waiting per exit that comes before `startsecs` and gives up in the end. A failed life
# this long, with `startsecs` below it, makes every restart an ordinary one.
MIN_UPTIME_S = 5.0

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_COREDUMP_FILTER = Path("/proc/self/coredump_filter")  # which kinds of memory an image holds; children inherit it


def die_with_parent(sig: signal.Signals = signal.SIGTERM) -> None:
    """Ask Linux to send us `sig` when the process that started us dies, be it by kill -9.

    Survives exec, not fork. Raises OSError if the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(sig), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def forbid_core_dumps() -> None:
    """An image of our memory may hold donors' names and secrets: neither we nor what we start may leave one behind.

    Where the kernel pipes images to a program (a `|` in core_pattern) it ignores the limit; an empty filter then keeps
    all memory out of them.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # a kernel without this file writes no core dumps
        _COREDUMP_FILTER.write_text("0")


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

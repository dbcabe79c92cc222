"""How a process of ours lives below supervisord: it dies with its parent, never ends too early, and dumps no core.

Shared by the sidecar, the API processes and the embedded database's starter.
"""

import ctypes
import os
import resource
import signal
import time
import xmlrpc.client
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from supervisor.xmlrpc import Faults, SupervisorTransport

# supervisord adds a second of waiting per exit that comes before `startsecs` and gives up in the end. A failed life
# this long, with `startsecs` below it, makes every restart an ordinary one.
MIN_FAILED_LIFE_S = 5.0

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
    return max(0.0, started_monotonic_s + MIN_FAILED_LIFE_S - clock())


def linger(started_monotonic_s: float) -> None:
    """Sleep until the minimum length of a failed life is reached; not at all outside supervisord."""
    time.sleep(remaining_s(started_monotonic_s))


@contextmanager
def supervisord(address: str, username: str = "", password: str = "") -> Iterator[Any]:
    """The methods of the supervisord at `address`, such as unix:///run/supervisor.sock; a block for their calls.

    Each raises OSError or xmlrpc.client.Error when supervisord can't be asked.
    """
    # The transport dials `address`; the URL here only has to look like one.
    with xmlrpc.client.ServerProxy("http://127.0.0.1", SupervisorTransport(username, password, address)) as server:
        yield server.supervisor


def start_group(environ: Mapping[str, str], group: str) -> bool:
    """Have supervisord start `group`; members that run already are left alone. Blocks for one local round trip.

    Returns False without supervisord's address in `environ` or where it knows no such group.
    Raises OSError or xmlrpc.client.Error when supervisord can't be asked.
    """
    address = environ.get("SUPERVISOR_SERVER_URL")
    if not address:
        return False
    user, password = environ.get("SUPERVISOR_USERNAME", ""), environ.get("SUPERVISOR_PASSWORD", "")
    with supervisord(address, user, password) as supervisor:
        try:
            supervisor.startProcessGroup(group, False)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == Faults.BAD_NAME:
                return False
            if fault.faultCode != Faults.ALREADY_STARTED:
                raise
    return True

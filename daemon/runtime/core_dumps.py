"""No process of donationd writes a core dump. The console command imports this module before everything else."""

import resource
from contextlib import suppress
from pathlib import Path

_COREDUMP_FILTER = Path("/proc/self/coredump_filter")  # which kinds of memory an image contains; children inherit it


def forbid_core_dumps() -> None:
    """Neither this process nor its children leave an image of their memory: it may contain donors' names and secrets.

    Where the kernel pipes images to a program (a `|` in core_pattern) it ignores the limit; an empty filter then keeps
    all memory out of them.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # a kernel without this file writes no core dumps
        _COREDUMP_FILTER.write_text("0")

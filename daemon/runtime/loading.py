"""The first step of a process, before it loads its program; `lifecycle.run_process` is the next one.

A module that is run calls `begin_loading` before its other imports, so this one imports next to nothing.
"""

import gc
import os
import signal
from types import FrameType


def begin_loading() -> None:
    """From now on SIGTERM and SIGINT end this process with status 0, until the program handles them itself.

    By default they would kill it, and supervisord would report that as a crash: it expects status 0
    (http://supervisord.org/configuration.html, exitcodes).
    """
    for sig in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sig, _end)
    gc.disable()  # until `run_process`: the search for cycles takes a sixth of the time of the imports, and finds none


def _end(_sig: int, _frame: FrameType | None) -> None:
    os._exit(0)  # there is nothing to close yet; an exception could be lost in the code that it interrupts

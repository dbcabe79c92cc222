"""The log of a process that serves requests: writing a line never waits.

Below supervisord the log is a pipe. When supervisord stops, or waits for its disk, the pipe is full after 64 kB, and an
ordinary write then waits for as long as that lasts, with the whole event loop. Here the pipe is non-blocking. What has
no room in it waits in memory; what has no room there either is dropped, in whole lines, and counted.

Why not a queue with a writer thread (logging.handlers.QueueHandler): what is written here has left the process even if
the process is killed a moment later; tracebacks, warnings and `print` are written in the same way and in their order;
and what writes to the descriptor itself (libpq, faulthandler) does not wait either. Non-blocking is a property of this
end of the pipe, which supervisord closes in its own process once this one has started: no other process is affected.

A log that is a regular file is written as usual, and waits for the disk of that file.
"""

import io
import os
import stat
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

# As much as the pipe holds: for a burst that supervisord does not read at once. Not more, because what waits in memory
# is lost if the process is killed.
MAX_WAITING_BYTES = 64 * 1024
CHUNK_BYTES = 64 * 1024
RETRY_S = 0.05
EXIT_POLL_S = 0.01


class LogOutput(io.RawIOBase):
    """Writes to a descriptor without waiting for its reader. Each `write` is kept or dropped as a whole.

    Args:
        descriptor: made non-blocking if it is a pipe or a socket.
        count_line: the line, with its end, that is written where so many lines are missing.
    """

    def __init__(self, descriptor: int, count_line: Callable[[int], bytes]) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._count_line = count_line
        self._lock = threading.RLock()  # a destructor may log while its own thread writes
        self._is_pushing = False
        self._waiting = bytearray()
        self._missing = 0  # lines dropped since the last line that counts them; 0 while nothing waits
        self.dropped = 0  # lines, since the start
        self._wake = SimpleQueue[None]()
        self._is_retrying = False
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            os.set_blocking(descriptor, False)
        threading.Thread(target=self._retry, name="log", daemon=True).start()

    def writable(self) -> bool:
        """Always."""
        return True

    def fileno(self) -> int:
        """The descriptor, for what writes to it directly."""
        return self._descriptor

    def write(self, data: bytes) -> int:  # type: ignore[override]
        """Write, keep or drop `data`: one or more whole lines. Never waits and never fails."""
        lines = bytes(data)
        with self._lock:
            # Once a line is missing all that follow are dropped, until the line that counts them is written.
            if self._waiting and (self._missing or len(self._waiting) + len(lines) > MAX_WAITING_BYTES):
                count = max(1, lines.count(b"\n"))
                self._missing += count
                self.dropped += count
            else:
                self._waiting += lines
            self._push()
            if self._waiting and not self._is_retrying:
                self._is_retrying = True
                self._wake.put(None)
        return len(lines)

    def finish(self, timeout_s: float) -> bool:
        """Wait until everything is written, but not longer than `timeout_s`. Returns whether it is."""
        deadline_s = time.monotonic() + timeout_s
        while not self._is_written():
            if time.monotonic() >= deadline_s:
                return False
            time.sleep(EXIT_POLL_S)
        return True

    def _push(self) -> None:
        """Write what waits as far as there is room, then the count of missing lines."""
        if self._is_pushing:
            return  # called by a destructor within `_push` itself, which continues and writes the line
        self._is_pushing = True
        try:
            while self._waiting:
                written = os.write(self._descriptor, self._waiting[:CHUNK_BYTES])
                del self._waiting[:written]
                if self._missing and not self._waiting:
                    self._waiting += self._count_line(self._missing)
                    self._missing = 0
        except OSError:
            pass  # no room, a full disk, or a reader that has ended: it is tried again
        finally:
            self._is_pushing = False

    def _is_written(self) -> bool:
        with self._lock:
            self._push()
            self._is_retrying = bool(self._waiting)
            return not self._waiting

    def _retry(self) -> None:
        """The thread: as long as something waits, try again regularly."""
        while True:
            self._wake.get()
            while not self._is_written():
                time.sleep(RETRY_S)

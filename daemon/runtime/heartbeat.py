"""A process's heartbeat: it shows that the main loop runs.

The process counts up a number in a file in memory (memfd) from its main loop. No disk can delay that, no other process
can remove the file, and it ends with its process. `health_sidecar.hang_detection` reads it under /proc.
"""

import asyncio
import os

from daemon.runtime.config import ConfigError

BEAT_S = 1.0

NAME = "donationd-heartbeat"
_MFD_NOEXEC_SEAL = 8  # <linux/memfd.h>; a kernel with vm.memfd_noexec=2 demands it, one before 6.3 does not know it


class Heartbeat:
    """The heartbeat of this process. Raises ConfigError if the system provides no file in memory."""

    def __init__(self) -> None:
        try:
            self._file = _memory_file()
        except OSError as error:
            raise ConfigError(
                [f"the heartbeat needs a file in memory, but memfd_create fails ({error.strerror}): allow it"]
            ) from None
        self._count = 0

    def beat(self) -> None:
        """The main loop has run once more. Never blocks."""
        self._count += 1
        os.pwrite(self._file, b"%d" % self._count, 0)

    async def run(self) -> None:
        """Beat from an event loop, for ever."""
        while True:
            self.beat()
            await asyncio.sleep(BEAT_S)


def _memory_file() -> int:
    try:
        return os.memfd_create(NAME, os.MFD_CLOEXEC | _MFD_NOEXEC_SEAL)
    except OSError:
        return os.memfd_create(NAME)

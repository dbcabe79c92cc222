"""The memory of connections that have ended: reference counts free it, and what they cannot free a search for reference
cycles, when it becomes too much.
"""

import gc
from inspect import ismethod


class Garbage:
    """What ended connections still take, in bytes, and the search that frees it.

    The search looks at every object of every open connection, and nothing else happens meanwhile: with a thousand of
    them it takes some hundredths of a second. So only what reference counts have not freed is counted.

    Args:
        limit: no more bytes may be waiting for a search.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._bytes = 0
        self._bytes_before = 0  # at the last call of `collect`: most connections are freed soon after they have ended
        self._in_use = 0  # of these bytes: a handler still refers to them, so a search does not free them

    def connection_ended(self, size: int) -> None:
        """A connection of `size` bytes has ended."""
        self._bytes += size

    def connection_freed(self, size: int) -> None:
        """Nothing refers to this connection any more."""
        self._bytes -= size

    def collect(self) -> None:
        """Search for reference cycles, if what has been there since the last call takes too much memory."""
        kept = min(self._bytes, self._bytes_before)
        self._in_use = min(self._in_use, kept)
        if kept - self._in_use > self._limit:
            gc.collect()
            self._in_use = self._bytes
        self._bytes_before = self._bytes


def free_from_itself(ended: object) -> None:
    """Remove an object's references to itself, so that its reference count frees it.

    asyncio's transports and some of aiohttp's routes keep methods that are bound to themselves.

    Args:
        ended: nothing calls these methods any more.
    """
    attributes = vars(ended)
    for name in [name for name, kept in attributes.items() if ismethod(kept) and kept.__self__ is ended]:
        del attributes[name]

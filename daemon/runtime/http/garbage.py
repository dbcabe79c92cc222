"""The memory of connections that have ended, which a search for reference cycles frees when it becomes too much."""

import gc

TRANSPORT_BYTES = 1536  # asyncio's transport and its socket: each transport refers to itself, however it ends
# So much may wait for a search, and so much more for each open connection, because the search looks at it.
LEAST_BYTES, OPEN_BYTES = 1024 * 1024, 8 * 1024


class Garbage:
    """What ended connections still take, in bytes, and the search that frees it.

    The search looks at every object of every open connection, and nothing else happens meanwhile: with a thousand of
    them it takes some hundredths of a second. So only what reference counts have not freed is counted.

    Args:
        limit: no more bytes may be waiting for a search, however many connections are open.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._transports = 0
        self._connections = 0  # bytes
        self._in_use = 0  # of these bytes: a handler still refers to them, so a search does not free them

    def connection_ended(self, size: int) -> None:
        """A connection of `size` bytes has ended."""
        self._transports += 1
        self._connections += size

    def connection_freed(self, size: int) -> None:
        """Nothing refers to this connection any more."""
        self._connections -= size

    def collect(self, open_connections: int) -> None:
        """Search for reference cycles, if they take too much memory for a search beside so many connections."""
        self._in_use = min(self._in_use, self._connections)
        limit = min(self._limit, LEAST_BYTES + open_connections * OPEN_BYTES)
        if self._transports * TRANSPORT_BYTES + self._connections - self._in_use > limit:
            gc.collect()
            self._transports, self._in_use = 0, self._connections

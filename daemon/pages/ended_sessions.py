"""The sessions of the operator console that were ended by signing out (SPEC 13): no process of any host admits them."""

from daemon.runtime.http.sessions import Session
from sql import load
from sql.database import Database


class EndedSessions:
    """What is kept of ended sessions until their cookies expire.

    Every function raises DatabaseUnavailable or StatementRejected as Database.fetch.

    Args:
        database: the primary server, so that a session has ended everywhere when signing out is answered.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, session: Session) -> None:
        """Ends a session."""
        await self._database.fetch(load("end_session"), {"id": session.id, "expires_at": session.expires_at})

    async def has(self, session: Session) -> bool:
        """Whether a session was ended."""
        [(is_ended,)] = await self._database.fetch(load("is_session_ended"), {"id": session.id})
        return bool(is_ended)

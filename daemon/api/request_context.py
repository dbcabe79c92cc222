"""An id for each request, and that of the event it brings, so that all log lines of one delivery are found together."""

import itertools
import secrets

from aiohttp import web

_PREFIX = secrets.token_hex(3)  # this process's: numbers begin anew with each
_numbers = itertools.count(1)
_IDS = web.RequestKey("ids", dict[str, str])


def ids(request: web.Request) -> dict[str, str]:
    """The ids as a log line takes them: `request`, and `event_id` once `brings` has named it."""
    found = request.get(_IDS)
    if found is None:
        found = request[_IDS] = {"request": f"{_PREFIX}-{next(_numbers)}"}
    return found


def brings(request: web.Request, event_id: str) -> None:
    """The request is the delivery of this event."""
    ids(request)["event_id"] = event_id

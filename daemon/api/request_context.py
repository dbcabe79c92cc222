"""The ids that each log line of a request contains, so that all lines of one delivery are found together."""

import itertools
import secrets

from aiohttp import web

_PREFIX = secrets.token_hex(3)  # of this process: numbers begin at 1 in each
_numbers = itertools.count(1)
_CONTEXT = web.RequestKey("log_context", dict[str, str])


def log_context(request: web.Request) -> dict[str, str]:
    """The request's ids for a log line: `request`, and `event_id` once `set_event_id` has set it."""
    found = request.get(_CONTEXT)
    if found is None:
        found = request[_CONTEXT] = {"request": _new_id()}
    return found


def new_log_context() -> dict[str, str]:
    """The ids of a request that has none yet."""
    return {"request": _new_id()}


def event_log_context(event_id: str) -> dict[str, str]:
    """The same, of a request that delivers this event."""
    return {**new_log_context(), "event_id": event_id}


def _new_id() -> str:
    return f"{_PREFIX}-{next(_numbers)}"


def set_event_id(request: web.Request, event_id: str) -> None:
    """The request delivers this event."""
    log_context(request)["event_id"] = event_id

"""The replies of both processes to what is not worked on, and the errors that lead to them. None repeats anything that
a client sent.
"""

import json
from http import HTTPStatus

from aiohttp import hdrs, web

RETRY_AFTER_S = 30
SERVER = "donationd"  # aiohttp would name its own version and Python's, for attackers to look up


class Busy(Exception):
    """No place became free in time; `kind` is the kind of work."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class BodyTimeout(TimeoutError):
    """A request's body was not complete in time."""


class NoMemory(TimeoutError):
    """The requests of all connections took too much memory, and this one took most of it."""


def unavailable(message: str) -> web.Response:
    """503 as the original design words it; Stripe delivers again."""
    body = {"error": "Service Unavailable", "message": message, "retryAfter": RETRY_AFTER_S}
    return web.json_response(body, status=503, headers={hdrs.RETRY_AFTER: str(RETRY_AFTER_S)})


def refusal(status: int) -> web.Response:
    """The status in words; the last reply of its connection."""
    response = web.json_response(_error(status), status=status, headers={hdrs.SERVER: SERVER})
    response.force_close()
    return response


def _error(status: int) -> dict[str, object]:
    return {"success": False, "error": HTTPStatus(status).phrase, "message": HTTPStatus(status).description}


_TEXT = json.dumps(_error(HTTPStatus.REQUEST_TIMEOUT))
# For a request that aiohttp has not seen, because its head never was complete.
SLOW_HEAD = (
    "HTTP/1.1 408 Request Timeout\r\n"
    "Content-Type: application/json; charset=utf-8\r\n"
    f"Server: {SERVER}\r\n"
    f"Content-Length: {len(_TEXT)}\r\n"
    f"Connection: close\r\n\r\n{_TEXT}"
).encode()

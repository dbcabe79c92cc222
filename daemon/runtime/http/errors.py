"""The bodies of error replies, and the exceptions of the server. No reply repeats anything that a client sent."""

import json
from http import HTTPStatus

import msgspec
from aiohttp import hdrs, web

RETRY_AFTER_S = 30
PROBLEM_JSON = "application/problem+json"
SERVER = "donationd"  # aiohttp's default contains its version and Python's, which help an attacker

# The headers of an error that a reply keeps.
ERROR_HEADERS = (hdrs.ALLOW, hdrs.CACHE_CONTROL, hdrs.LOCATION, hdrs.RETRY_AFTER, hdrs.WWW_AUTHENTICATE)
# In the place of the messages of aiohttp's own errors, which do not help a client.
MESSAGES = {404: "there is nothing at this address", 405: "this method is not allowed here"}


class Problem(msgspec.Struct):
    """An error as RFC 9457 describes it. `type` says nothing more than the status; `detail` says what to do."""

    title: str
    status: int
    detail: str
    type: str = "about:blank"


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
    """503 in the wording of the original design; Stripe delivers again."""
    body = {"error": "Service Unavailable", "message": message, "retryAfter": RETRY_AFTER_S}
    return web.json_response(body, status=503, headers={hdrs.RETRY_AFTER: str(RETRY_AFTER_S)})


def error_body(status: int, message: str = "") -> dict[str, object]:
    """An error as JSON: the status's name, and a message that says what to do."""
    named = HTTPStatus(status)
    return {"success": False, "error": named.phrase, "message": message or named.description}


def error_reply(error: web.HTTPException) -> web.Response:
    """The reply to an error, or a redirection, that a handler or aiohttp has raised."""
    error.__traceback__ = None  # it keeps the request in memory, and the request of an unknown route keeps the error
    message = error.text or ""
    if message == f"{error.status}: {error.reason}":
        message = MESSAGES.get(error.status, "")
    if error.status < HTTPStatus.BAD_REQUEST:
        response = web.Response(status=error.status)
    else:
        response = web.json_response(error_body(error.status, message), status=error.status)
    response.headers.update({name: error.headers[name] for name in ERROR_HEADERS if name in error.headers})
    return response


def message_of(reply: web.Response) -> str:
    """What an error reply says."""
    return str(json.loads(reply.text or "{}").get("message", HTTPStatus(reply.status).phrase))


def as_problem(reply: web.Response) -> web.Response:
    """The same error as a problem document (RFC 9457), for the operator API."""
    body = Problem(HTTPStatus(reply.status).phrase, reply.status, message_of(reply))
    problem = web.Response(body=msgspec.json.encode(body), status=reply.status, content_type=PROBLEM_JSON)
    problem.headers.update({name: reply.headers[name] for name in ERROR_HEADERS if name in reply.headers})
    problem.headers[hdrs.CACHE_CONTROL] = "no-store"
    return problem


def rejection(status: int) -> web.Response:
    """The reply to a request that reached no handler; the last one of its connection."""
    response = web.json_response(error_body(status), status=status, headers={hdrs.SERVER: SERVER})
    response.force_close()
    return response


_TEXT = json.dumps(error_body(HTTPStatus.REQUEST_TIMEOUT))
# The reply to a request whose head was not complete in time, so that aiohttp has not created a request yet.
SLOW_HEAD = (
    "HTTP/1.1 408 Request Timeout\r\n"
    "Content-Type: application/json; charset=utf-8\r\n"
    f"Server: {SERVER}\r\n"
    f"Content-Length: {len(_TEXT)}\r\n"
    f"Connection: close\r\n\r\n{_TEXT}"
).encode()

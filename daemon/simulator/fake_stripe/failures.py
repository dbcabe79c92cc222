"""What can be made to go wrong: replies that fail, permissions that a key lacks, objects and events that are lost."""

import asyncio
import re
from dataclasses import dataclass, field
from typing import Literal

from aiohttp import web

Kind = Literal["status", "malformed", "truncated", "disconnect", "hang", "slow"]


@dataclass
class Failure:
    """What happens to some requests.

    Attributes:
        kind: `status` replies with an error; `malformed` with half of the JSON text; `truncated` announces the whole
            text and closes the connection after half of it; `disconnect` closes it without a reply; `hang` sends
            nothing for `seconds`; `slow` sends the correct reply after `seconds`.
        path: a regular expression that the method and the path must match, such as `GET /v1/charges`.
        times: how many requests fail; None for all.
        skip: how many requests that match succeed before.
        after_work: the request's work is done, and only its reply fails.
        status: for `status`; 429 as well.
        retry_after: the seconds that the reply's Retry-After names.
        seconds: for `hang` and `slow`.
    """

    kind: Kind = "status"
    path: str = ""
    times: int | None = 1
    skip: int = 0
    after_work: bool = False
    status: int = 500
    retry_after: int | None = None
    seconds: float = 60.0

    def takes(self, method: str, path: str) -> bool:
        """Whether it happens to this request, which is then counted."""
        if self.times == 0 or not re.match(self.path, f"{method} {path}"):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times = None if self.times is None else self.times - 1
        return True

    async def reply(self, request: web.Request, correct: web.Response | None) -> web.StreamResponse:
        """What is sent in place of the correct reply, which is None where the request's work was not done."""
        match self.kind:
            case "status":
                return self._error()
            case "malformed":
                return web.Response(body=_half(correct), content_type="application/json")
            case "truncated":
                return await _truncated(request, correct)
            case "hang" | "slow":
                await asyncio.sleep(self.seconds)
                if correct is not None and self.kind == "slow":
                    return correct
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

    @property
    def needs_correct_reply(self) -> bool:
        """Whether the request's work is done."""
        return self.after_work or self.kind in {"malformed", "truncated", "slow"}

    def _error(self) -> web.Response:
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        limited = self.status == 429
        error = {
            "message": "Request rate limit exceeded." if limited else "An unknown error occurred.",
            "type": "invalid_request_error" if limited else "api_error",
        } | ({"code": "rate_limit"} if limited else {})
        return web.json_response({"error": error}, status=self.status, headers=headers)


def _half(correct: web.Response | None) -> bytes:
    body = correct.body if correct is not None else b""
    return body[: len(body) // 2] if isinstance(body, bytes) else b""


async def _truncated(request: web.Request, correct: web.Response | None) -> web.StreamResponse:
    half = _half(correct)
    response = web.StreamResponse(
        headers={"Content-Type": "application/json", "Content-Length": str(2 * len(half) + 1)}
    )
    await response.prepare(request)
    await response.write(half)
    if request.transport is not None:
        request.transport.close()
    return response


@dataclass
class Failures:
    """Everything that is made to go wrong now.

    Attributes:
        permissions: what each restricted key may do, such as `charge_read`; a key that is not named here may do all.
        hidden: ids of objects that no list contains and that cannot be read, as if another account had them.
        lost_events: ids or types of events that are not delivered to any webhook endpoint.
    """

    replies: list[Failure] = field(default_factory=list)
    permissions: dict[str, set[str]] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)
    lost_events: set[str] = field(default_factory=set)

    def add(self, failure: Failure) -> None:
        """From now on this happens as well."""
        self.replies.append(failure)

    def of(self, method: str, path: str) -> Failure | None:
        """What happens to this request."""
        return next((failure for failure in self.replies if failure.takes(method, path)), None)

    def clear(self) -> None:
        """Everything works again."""
        self.replies.clear()
        self.permissions.clear()
        self.hidden.clear()
        self.lost_events.clear()

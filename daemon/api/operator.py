"""The operator API: what every endpoint that `endpoints.py` declares has in common (SPEC 10).

token and scope -> media type -> parameters -> a place -> audit log -> handler -> reply
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence, Set
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

import msgspec
from aiohttp import hdrs, web

from daemon.api import (
    exports,
    operator_actions,
    operator_donations,
    operator_events,
    operator_fraud,
    operator_mail,
    operator_overview,
    operator_reports,
    operator_tickets,
)
from daemon.api.endpoints import JSON, PREFIX, Call, Created, Dependencies, Endpoint, Stream
from daemon.api.openapi import accepts_text, document, expected, fields
from daemon.ledger import audit
from daemon.runtime.http.auth import OperatorAuthentication, OperatorToken, Scope, require_scope
from daemon.runtime.http.limits import DEADLINE, Places, read_body

# The modules with endpoints. Each has a list ENDPOINTS.
FEATURES = (
    operator_donations,
    operator_events,
    operator_tickets,
    operator_fraud,
    operator_mail,
    operator_actions,
    operator_overview,
    operator_reports,
    exports,
)

DOCUMENT_PATH = "/api/openapi.json"
BODY_BYTES = 16 * 1024  # the longest has some hundred
STREAM_S = 3600.0  # a million rows at 40 kB/s; an export can be resumed
PRIVATE: dict[str, str] = {hdrs.CACHE_CONTROL: "no-store", "X-Content-Type-Options": "nosniff"}
CONTROL_CHARACTERS = frozenset(map(chr, (*range(32), 127)))
Authenticate = Callable[[web.Request, Scope], Awaitable[OperatorToken]]
_decode = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal).decode  # an amount is never a binary float
_encode = msgspec.json.Encoder(decimal_format="number").encode


@dataclass(frozen=True)
class OperatorLimits:
    """How many calls are worked on at the same time, and for how long a client may not read a part of a reply."""

    calls: int = 2
    exports: int = 2
    write_s: float = 30.0


class OperatorApi:
    """Answers the calls of operators: of their programs by token, of the operator console by session."""

    def __init__(self, endpoints: Iterable[Endpoint], deps: Dependencies, limits: OperatorLimits) -> None:
        self.endpoints = {endpoint.name: endpoint for endpoint in endpoints}
        self._parameters = {name: _Parameters(endpoint) for name, endpoint in self.endpoints.items()}
        self._deps = deps
        self._write_s = limits.write_s
        self._calls = Places("operator calls", limits.calls)
        self._exports = Places("exports", limits.exports)

    async def call(self, name: str, token: OperatorToken, texts: Mapping[str, str | None]) -> Any:
        """What an endpoint that needs no place of exports replies, as the value that its handler returns.

        Args:
            name: the operation's id.
            texts: its parameters, as a form sends them; None stands for null.

        Raises the same HTTP errors as `answer`.
        """
        endpoint = self.endpoints[name]
        require_scope(token, endpoint.scope)
        values = self._parameters[name].of_texts(texts)
        async with self._calls:
            reply = await self._reply(endpoint, Call(token.name, JSON), values)
        return reply.reply if isinstance(reply, Created) else reply

    def route(
        self, endpoint: Endpoint, authenticate: Authenticate, path: str | None = None, media_type: str | None = None
    ) -> web.RouteDef:
        """The route of an endpoint; there is none for HEAD, because a HEAD of an export would be on record as one.

        Args:
            authenticate: the token of a request, which has the scope; it raises the errors of `auth`.
            path: another path than that of the operator API.
            media_type: of the reply, where the request's Accept header does not decide.
        """
        parameters = self._parameters[endpoint.name]
        places = self._exports if endpoint.is_slow else self._calls

        async def answer(request: web.Request) -> web.StreamResponse:
            token = await authenticate(request, endpoint.scope)
            accept = request.headers.get(hdrs.ACCEPT, "") if media_type is None else media_type
            call = Call(token.name, _media_type(accept, list(endpoint.replies)))
            values = await parameters.read(request)
            async with places:
                if request.transport is None:
                    raise ConnectionResetError("the client left while it waited for a place")
                reply = await self._reply(endpoint, call, values)
                if isinstance(reply, Stream):
                    return await self._send(request, reply, call.media_type)
            if isinstance(reply, Created):
                response = _reply(reply.reply, call.media_type)
                response.set_status(HTTPStatus.CREATED)
            else:
                response = _reply(reply, call.media_type)
            if len(endpoint.replies) > 1:
                response.headers[hdrs.VARY] = hdrs.ACCEPT
            return response

        options = {"allow_head": False} if endpoint.method == "GET" else {}
        return web.route(endpoint.method, path or PREFIX + endpoint.path, answer, **options)

    async def _reply(self, endpoint: Endpoint, call: Call, values: Any) -> Any:
        """What the handler returns; before that, the row of the audit log."""
        if entry := endpoint.audit(values):
            await audit.record(self._deps.database, call.operator, entry.action, entry.detail)
        return await endpoint.handler(self._deps, call, values)

    async def _send(self, request: web.Request, stream: Stream, media_type: str) -> web.StreamResponse:
        """Sends a reply in parts."""
        response = web.StreamResponse(headers=dict(stream.headers) | PRIVATE)
        response.content_type = media_type
        if media_type.startswith("text/"):
            response.charset = "utf-8"
        async with aclosing(stream.parts) as parts:
            part = await anext(parts, b"")
            request[DEADLINE].reschedule(asyncio.get_running_loop().time() + STREAM_S)
            try:
                await self._write(request, response, part)
                async for part in parts:
                    await self._write(request, response, part)
                await response.write_eof()
            except BaseException:
                if request.transport:
                    request.transport.abort()  # the client must not take what it has for the whole
                raise
        return response

    async def _write(self, request: web.Request, response: web.StreamResponse, part: bytes) -> None:
        """Sends a part, after the head if it is the first one. Raises ConnectionError if the client does not read."""
        try:
            async with asyncio.timeout(self._write_s):
                await response.prepare(request)
                await response.write(part)
        except TimeoutError:
            raise ConnectionResetError("the client does not read the reply") from None


def operator_api(deps: Dependencies, limits: OperatorLimits = OperatorLimits()) -> OperatorApi:
    """The endpoints of all features."""
    return OperatorApi(itertools.chain.from_iterable(feature.ENDPOINTS for feature in FEATURES), deps, limits)


def routes(api: OperatorApi, operators: OperatorAuthentication) -> list[web.RouteDef]:
    """The routes of the operator API, for requests with a token, and of its document."""
    endpoints = list(api.endpoints.values())
    text = _encode(document(endpoints, version("donationd")))

    async def authenticate(request: web.Request, scope: Scope) -> OperatorToken:
        return operators.authenticate(request, scope)

    async def describe(_request: web.Request) -> web.Response:
        return web.Response(body=text, content_type=JSON)

    return [
        web.get(DOCUMENT_PATH, describe, allow_head=True),
        *(api.route(endpoint, authenticate) for endpoint in endpoints),
    ]


class _Parameters:
    """Reads an endpoint's parameters from a request. Raises the HTTP error that names what is wrong."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._type = endpoint.parameters
        self._fields = fields(endpoint.parameters)
        self._in_path = {name for name in self._fields if f"{{{name}}}" in endpoint.path}
        self._others = self._fields.keys() - self._in_path
        self._in_query = endpoint.method == "GET"

    async def read(self, request: web.Request) -> Any:
        """The parameters, as the Struct that the endpoint declares."""
        query = self._others if self._in_query else frozenset[str]()
        values: dict[str, object] = {**self._query(request, query)}
        if self._others and not self._in_query:
            values = self._checked(_json_object(await self._body(request)), self._others)
        values |= {name: self._text(name, request.match_info[name]) for name in self._in_path}
        return self._converted(values)

    def of_texts(self, texts: Mapping[str, str | None]) -> Any:
        """The same from the texts of a form; None stands for null."""
        known = {self._known(name, self._fields.keys()): text for name, text in texts.items()}
        return self._converted({name: None if text is None else self._text(name, text) for name, text in known.items()})

    def _converted(self, values: Mapping[str, object]) -> Any:
        try:
            read = msgspec.convert(values, self._type)
        except msgspec.ValidationError as error:
            raise web.HTTPBadRequest(text=self._explain(str(error))) from None
        return self._in_utc(read)

    def _in_utc(self, read: Any) -> Any:
        """The parameters with their times in UTC: PostgreSQL does not take every offset that RFC 3339 allows."""
        times = {name: time for name, time in msgspec.structs.asdict(read).items() if isinstance(time, datetime)}
        try:
            return msgspec.structs.replace(read, **{name: time.astimezone(UTC) for name, time in times.items()})
        except OverflowError:
            raise web.HTTPBadRequest(text="a time is before the year 1 or after the year 9999 in UTC") from None

    def _query(self, request: web.Request, allowed: Set[str]) -> dict[str, object]:
        for name in request.query:
            if len(request.query.getall(name)) > 1:
                raise web.HTTPBadRequest(text=f"{self._known(name, allowed)}: given more than once")
        return {name: self._text(self._known(name, allowed), text) for name, text in request.query.items()}

    def _known(self, name: str, allowed: Set[str]) -> str:
        if name not in allowed:
            raise web.HTTPBadRequest(text=f"unknown parameter (there are: {', '.join(sorted(allowed)) or 'none'})")
        return name

    def _text(self, name: str, text: str) -> object:
        """The value that the text of a path or query stands for."""
        if not CONTROL_CHARACTERS.isdisjoint(text):
            raise web.HTTPBadRequest(text=f"{name}: control characters are not allowed")
        match self._fields[name].get("type"):
            case "integer" if text.isascii() and text.isdigit() and len(text) <= 18:
                return int(text)
            case "boolean":
                return {"true": True, "false": False}.get(text, text)
        return text

    async def _body(self, request: web.Request) -> bytes:
        if request.content_type != JSON:
            raise web.HTTPUnsupportedMediaType(text=f"the body must be JSON, with Content-Type: {JSON}")
        return await read_body(request, BODY_BYTES)

    def _checked(self, values: dict[str, object], allowed: Set[str]) -> dict[str, object]:
        """The body's values, whose names are known and whose texts have no control characters."""
        for name, each in values.items():
            self._known(name, allowed)
            if isinstance(each, str) and not CONTROL_CHARACTERS.isdisjoint(each):
                raise web.HTTPBadRequest(text=f"{name}: control characters are not allowed")
            if isinstance(each, str) and not accepts_text(self._fields[name]):  # msgspec reads numbers in texts too
                raise web.HTTPBadRequest(text=f"{name}: {expected(self._fields[name])}")
        return values

    def _explain(self, error: str) -> str:
        """What is wrong, from msgspec's text, without the value: `Expected `int` >= 1 - at `$.limit``."""
        for name, schema in self._fields.items():
            if error.endswith(f"`$.{name}`"):
                return f"{name}: {expected(schema)}"
            if error == f"Object missing required field `{name}`":
                return f"{name}: it is missing ({expected(schema)})"
        return "a parameter is wrong"


def _json_object(body: bytes) -> dict[str, object]:
    try:
        return _decode(body)
    except (ValueError, ArithmeticError, RecursionError):
        raise web.HTTPBadRequest(text="the body is not a JSON object") from None


def _media_type(accept: str, offered: Sequence[str]) -> str:
    """The media type that an Accept header prefers (RFC 9110, section 12.5.1). Raises HTTPNotAcceptable."""
    if not accept.strip():
        return offered[0]
    ranges = _qualities(accept)
    qualities = {media_type: _quality(media_type, ranges) for media_type in offered}
    best = max(offered, key=lambda media_type: qualities[media_type])
    if qualities[best] <= 0:
        raise web.HTTPNotAcceptable(text=f"the reply can be: {', '.join(offered)}")
    return best


def _qualities(accept: str) -> dict[str, float]:
    """Media range -> its quality, without what is not one."""
    found = {}
    for each in accept.lower().split(","):
        name, *options = (part.strip() for part in each.split(";"))
        quality = next((option[2:] for option in options if option.startswith("q=")), "1")
        try:
            found[name] = min(1.0, max(0.0, float(quality)))
        except ValueError:
            continue
    return found


def _quality(media_type: str, ranges: Mapping[str, float]) -> float:
    """The quality of the range that fits it most closely; 0 if none does."""
    kind = media_type.partition("/")[0]
    return next((ranges[each] for each in (media_type, f"{kind}/*", "*/*") if each in ranges), 0.0)


def _reply(value: object, media_type: str) -> web.Response:
    if media_type == JSON:
        return web.Response(body=_encode(value), content_type=JSON, headers=PRIVATE)
    body = value if isinstance(value, bytes) else str(value).encode()
    return web.Response(body=body, content_type=media_type, charset="utf-8", headers=PRIVATE)

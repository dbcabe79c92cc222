"""The HTTP server of the fake: checks each request as Stripe does, calls its handler, and remembers idempotent replies.

Sources: https://docs.stripe.com/api/authentication, /api/errors, /api/idempotent_requests, /api/versioning,
/api/connected-accounts, and https://docs.stripe.com/keys/restricted-api-keys
"""

import base64
import binascii
import itertools
import json
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from email.utils import formatdate
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web

from daemon.simulator.fake_stripe import resources, webhook_endpoints
from daemon.simulator.fake_stripe.failures import Failures
from daemon.simulator.fake_stripe.parameters import StripeError, nested
from daemon.simulator.fake_stripe.resources import Request
from daemon.simulator.scenarios import Scenario
from daemon.simulator.stripe_objects import APIS, TODAY, Api, Json
from daemon.simulator.world import World

API_KEY = re.compile(r"(?:sk|rk)_(test|live)_\w{3,240}", re.ASCII)
TEST_KEY = "sk_test_fake"
CALLS_KEPT = 10_000
REPLIES_KEPT = 10_000  # by idempotency key; Stripe keeps them at least 24 hours
ROUTES = (*resources.ROUTES, *webhook_endpoints.ROUTES)
VERSION = re.compile(r"20\d\d-\d\d-\d\d(?:\.[a-z]+)?")


@dataclass(frozen=True)
class Call:
    """A request that was received, and what it was answered."""

    method: str
    path: str
    params: dict[str, str]
    status: int
    account: str | None
    idempotency_key: str | None


class FakeStripe:
    """Stripe's API over a world for each mode and account.

    Args:
        keys: the API keys that are accepted, of either mode.
        api: the account's own API version: that of events, and of replies to requests that name none.
        clock: Unix seconds.

    Attributes:
        failures: what can be made to go wrong.
        calls: the last requests, the newest last.
        base_url: where it is reached, once it serves.
    """

    def __init__(
        self, keys: Iterable[str] = (TEST_KEY,), *, api: Api = TODAY, clock: Callable[[], float] = time.time
    ) -> None:
        self.keys = set(keys)
        self.api, self.clock = api, clock
        self.failures = Failures()
        self.calls: deque[Call] = deque(maxlen=CALLS_KEPT)
        self.base_url = ""
        self._worlds: dict[tuple[bool, str | None], World] = {}
        for livemode in (False, True):
            self.world_of(livemode=livemode)
        self._replies: dict[tuple[str, str], tuple[str, bytes]] = {}  # the request and its reply, by idempotency key
        self._numbers = itertools.count(1)

    @property
    def world(self) -> World:
        """The platform's own account in test mode."""
        return self.world_of(livemode=False)

    def world_of(self, *, livemode: bool, account: str | None = None) -> World:
        """The objects of one mode and account; a connected account is added."""
        key = (livemode, account)
        if key not in self._worlds:
            self._worlds[key] = World(livemode=livemode, account=account, api=self.api)
        return self._worlds[key]

    def add(self, scenarios: Iterable[Scenario]) -> None:
        """Adds scenarios that have been played, each to the world of its mode and account."""
        for scenario in scenarios:
            endpoint = scenario.states[0].endpoint
            self.world_of(livemode=endpoint.livemode, account=endpoint.account).add([scenario])

    # Serving

    @asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator[None]:
        """Serves on 127.0.0.1 until the end of the context; port 0 takes a free one, which `base_url` names."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", port)
            await site.start()
            self.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        """One request: what it is answered, unless it was made to fail."""
        body = await request.read()
        failure = self.failures.of(request.method, request.path)
        correct = self._correct_reply(request, body) if failure is None or failure.needs_correct_reply else None
        reply = correct if failure is None else await failure.reply(request, correct)
        assert reply is not None  # noqa: S101 - there is a correct reply where there is no failure
        headers, params = request.headers, dict(_pairs(request, body))
        account, key = headers.get("Stripe-Account"), headers.get("Idempotency-Key")
        self.calls.append(Call(request.method, request.path, params, reply.status, account, key))
        return reply

    def _correct_reply(self, request: web.Request, body: bytes) -> web.Response:
        headers = {
            "Date": formatdate(self.clock(), usegmt=True),
            "Request-Id": f"req_{next(self._numbers):014}",
        }
        try:
            return self._checked_reply(request, body, headers)
        except StripeError as error:
            return _response(error.status, _encode(error.body), headers)

    def _checked_reply(self, request: web.Request, body: bytes, headers: dict[str, str]) -> web.Response:
        """Raises StripeError where Stripe would reject the request."""
        key = self._api_key(request)
        api = self._api(request)
        headers["Stripe-Version"] = request.headers.get("Stripe-Version", api.version)
        checked = Request(
            method=request.method,
            path=request.path.removeprefix("/v1/"),
            params=nested(_pairs(request, body)),
            world=self._world(request, key),
            api=api,
            now=int(self.clock()),
            hidden=self.failures.hidden,
            base_url=self.base_url,
        )
        idempotency_key = request.headers.get("Idempotency-Key")
        if request.method == "GET" or idempotency_key is None:
            return _response(200, _encode(self._handle(checked, key)), headers)
        headers["Idempotency-Key"] = idempotency_key
        return self._idempotent_reply(checked, key, idempotency_key, headers)

    def _idempotent_reply(
        self, request: Request, key: str, idempotency_key: str, headers: dict[str, str]
    ) -> web.Response:
        """The first reply to this idempotency key that succeeded. Raises StripeError if the parameters differ."""
        fingerprint = f"{request.method} {request.path} {json.dumps(request.params, sort_keys=True)}"
        kept = self._replies.get((key, idempotency_key))
        if kept is None:
            body = _encode(self._handle(request, key))
            self._replies[key, idempotency_key] = fingerprint, body
            if len(self._replies) > REPLIES_KEPT:
                del self._replies[next(iter(self._replies))]
            return _response(200, body, headers)
        if kept[0] != fingerprint:
            raise StripeError(
                400,
                "Keys for idempotent requests can only be used with the same parameters they were first used with.",
                type_="idempotency_error",
            )
        return _response(200, kept[1], headers | {"Idempotent-Replayed": "true"})

    # Checks

    def _api_key(self, request: web.Request) -> str:
        """The key of the request: a bearer token, or the user name of basic authentication."""
        scheme, _, value = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "basic":
            try:
                value = base64.b64decode(value, validate=True).decode().partition(":")[0]
            except (binascii.Error, UnicodeDecodeError):
                value = ""
        if not value or scheme.lower() not in {"basic", "bearer"}:
            raise StripeError(401, "You did not provide an API key.")
        if value not in self.keys or not API_KEY.fullmatch(value):
            raise StripeError(401, f"Invalid API Key provided: {_masked(value)}")
        return value

    def _api(self, request: web.Request) -> Api:
        """The shapes of the version that the request names, or of the account's own."""
        version = request.headers.get("Stripe-Version")
        if version is None:
            return _for_requests(self.api)
        if not VERSION.fullmatch(version):
            raise StripeError(400, f"Invalid Stripe API version: {version}")
        known = [api for api in APIS if api.version[:10] <= version[:10]]
        return _for_requests(known[-1] if known else APIS[0])

    def _world(self, request: web.Request, key: str) -> World:
        livemode, account = "_live_" in key[:8], request.headers.get("Stripe-Account")
        if (livemode, account) not in self._worlds:
            message = f"The provided key '{_masked(key)}' does not have access to account '{account}'"
            raise StripeError(403, message, code="account_invalid")
        return self._worlds[livemode, account]

    def _check_permission(self, key: str, permission: str) -> None:
        permissions = self.failures.permissions.get(key)
        if permissions is not None and permission not in permissions:
            raise StripeError(
                403,
                f"The provided key '{_masked(key)}' does not have the required permissions for this endpoint. "
                f"Having the 'rak_{permission}' permission would allow this request to continue.",
                code="more_permissions_required",
            )

    def _handle(self, request: Request, key: str) -> Json:
        """Raises StripeError for an unknown address, a missing permission, or what the handler rejects."""
        for route in ROUTES:
            found = route.path.fullmatch(request.path) if route.method == request.method else None
            if found is not None:
                self._check_permission(key, route.permission)
                return route.handler(request, *found.groups())
        raise StripeError(404, f"Unrecognized request URL ({request.method}: /v1/{request.path}).")


def _for_requests(api: Api) -> Api:
    """In replies `latest_charge` is an id unless a request expands it, whatever the events of the version have."""
    return replace(api, charges="named") if api.charges == "expanded" else api


def _pairs(request: web.Request, body: bytes) -> list[tuple[str, str]]:
    return [*request.query.items(), *parse_qsl(body.decode(errors="replace"), keep_blank_values=True)]


def _encode(reply: Json) -> bytes:
    return msgspec.json.encode(reply)


def _response(status: int, body: bytes, headers: dict[str, str]) -> web.Response:
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)


def _masked(key: str) -> str:
    return f"{key[:8]}{'*' * 8}{key[-4:]}"

"""The HTTP server of the fake: checks each request as Stripe does, calls its handler, and remembers idempotent replies.

Sources: https://docs.stripe.com/api/authentication, /api/errors, /api/idempotent_requests, /api/versioning,
/api/connected-accounts, and https://docs.stripe.com/keys/restricted-api-keys
"""

import base64
import binascii
import itertools
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from email.utils import formatdate
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web

from daemon.simulator.api_versions import APIS, Api
from daemon.simulator.fake_stripe import checkout_sessions, hosted_page, payment_actions, resources, webhook_endpoints
from daemon.simulator.fake_stripe.control import ACTIONS
from daemon.simulator.fake_stripe.fake import Call, FakeStripe
from daemon.simulator.fake_stripe.parameters import StripeError, nested
from daemon.simulator.fake_stripe.resources import Request
from daemon.simulator.stripe_objects import Json
from daemon.simulator.world import World

API_KEY = re.compile(r"(?:sk|rk)_(test|live)_\w{3,240}", re.ASCII)
REPLIES_KEPT = 10_000  # by idempotency key; Stripe keeps them at least 24 hours
ROUTES = (*resources.ROUTES, *checkout_sessions.ROUTES, *payment_actions.ROUTES, *webhook_endpoints.ROUTES)
VERSION = re.compile(r"20\d\d-\d\d-\d\d(?:\.[a-z]+)?")


@asynccontextmanager
async def serving(fake: FakeStripe, port: int = 0) -> AsyncIterator[FakeStripe]:
    """Serves on 127.0.0.1 and delivers events until the end of the context.

    Args:
        port: 0 takes a free one; `base_url` then names it.
    """
    server = _Server(fake)
    app = web.Application()
    app.router.add_post("/_control/{action}", server.control)
    app.router.add_route("*", "/pay/{session}", server.pay)
    app.router.add_route("*", "/v1/{path:.*}", server.answer)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        fake.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with fake.delivery.running():
            yield fake
    finally:
        await runner.cleanup()


class _Server:
    """The handlers of the paths."""

    def __init__(self, fake: FakeStripe) -> None:
        self._fake = fake
        self._numbers = itertools.count(1)

    async def control(self, request: web.Request) -> web.Response:
        """An action of `control`; its content type keeps pages of other sites from sending one."""
        try:
            if request.content_type != "application/json":
                raise ValueError("the body must be JSON")
            return web.json_response(ACTIONS[request.match_info["action"]](self._fake, **await request.json()))
        except (KeyError, TypeError, ValueError) as error:
            return web.json_response({"error": f"{type(error).__name__}: {error}"}, status=400)

    async def pay(self, request: web.Request) -> web.Response:
        """The page of a Checkout Session."""
        id_ = request.match_info["session"]
        try:
            world = self._fake.world_with(id_)
        except KeyError:
            return web.Response(status=404, text="There is no such Checkout Session.")
        session = world.collections["checkout.session"][id_]
        if request.method == "POST":
            return await hosted_page.submit(request, world, session, self._fake.now)
        return hosted_page.show(session)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """One request: what it is answered, unless it was made to fail."""
        body = await request.read()
        failure = self._fake.failures.of(request.method, request.path)
        correct = self._correct_reply(request, body) if failure is None or failure.needs_correct_reply else None
        reply = correct if failure is None else await failure.reply(request, correct)
        assert reply is not None  # noqa: S101 - there is a correct reply where there is no failure
        headers, params = request.headers, dict(_pairs(request, body))
        account, key = headers.get("Stripe-Account"), headers.get("Idempotency-Key")
        self._fake.calls.append(Call(request.method, request.path, params, reply.status, account, key))
        return reply

    def _correct_reply(self, request: web.Request, body: bytes) -> web.Response:
        headers = {
            "Date": formatdate(self._fake.clock(), usegmt=True),
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
            now=self._fake.now,
            hidden=self._fake.failures.hidden,
            base_url=self._fake.base_url,
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
        kept = self._fake.replies.get((key, idempotency_key))
        if kept is None:
            body = _encode(self._handle(request, key))
            self._fake.replies[key, idempotency_key] = fingerprint, body
            if len(self._fake.replies) > REPLIES_KEPT:
                del self._fake.replies[next(iter(self._fake.replies))]
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
        if value not in self._fake.keys or not API_KEY.fullmatch(value):
            raise StripeError(401, f"Invalid API Key provided: {_masked(value)}")
        return value

    def _api(self, request: web.Request) -> Api:
        """The shapes of the version that the request names, or of the account's own."""
        version = request.headers.get("Stripe-Version")
        if version is None:
            return _for_requests(self._fake.api)
        if not VERSION.fullmatch(version):
            raise StripeError(400, f"Invalid Stripe API version: {version}")
        known = [api for api in APIS if api.version[:10] <= version[:10]]
        return _for_requests(known[-1] if known else APIS[0])

    def _world(self, request: web.Request, key: str) -> World:
        livemode, account = "_live_" in key[:8], request.headers.get("Stripe-Account")
        world = self._fake.known_world(livemode=livemode, account=account)
        if world is None:
            message = f"The provided key '{_masked(key)}' does not have access to account '{account}'"
            raise StripeError(403, message, code="account_invalid")
        return world

    def _check_permission(self, key: str, permission: str) -> None:
        permissions = self._fake.failures.permissions.get(key)
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

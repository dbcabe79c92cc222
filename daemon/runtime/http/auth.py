"""Operators authenticate with bearer tokens (RFC 6750), which the setting OPERATOR_TOKENS names.

`OperatorAuthentication` admits a request to a handler if its token has the scope that the handler requires; the errors
it raises become replies in `errors`.
"""

import hashlib
import hmac
import math
import time
from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web

from daemon.runtime.http.addresses import RecentAttempts, client_address
from daemon.runtime.operator_tokens import OperatorToken, Scope, parse_tokens

__all__ = ["OperatorAuthentication", "OperatorToken", "Scope", "parse_tokens"]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MAX_FAILED_ATTEMPTS = 10  # of one address within WINDOW_S
WINDOW_S = 60.0

CHALLENGE = 'Bearer realm="donationd"'


class OperatorAuthentication:
    """Admits requests by their token, in the Authorization header only.

    Args:
        tokens: those of OPERATOR_TOKENS; without any, no request is admitted.
        clock: seconds of a monotonic clock.
    """

    def __init__(self, tokens: tuple[OperatorToken, ...], clock: Callable[[], float] = time.monotonic) -> None:
        self._tokens = tokens
        self._failures = RecentAttempts(MAX_FAILED_ATTEMPTS, WINDOW_S, clock)

    @property
    def has_tokens(self) -> bool:
        """Whether any request can be admitted."""
        return bool(self._tokens)

    def require(self, scope: Scope, handler: Handler) -> Handler:
        """`handler` for requests whose token has `scope`; caches may store none of its replies."""

        async def authenticated(request: web.Request) -> web.StreamResponse:
            try:
                self.authenticate(request, scope)
                response = await handler(request)
            except web.HTTPException as error:
                error.headers[hdrs.CACHE_CONTROL] = "no-store"
                raise
            response.headers[hdrs.CACHE_CONTROL] = "no-store"
            return response

        return authenticated

    def authenticate(self, request: web.Request, scope: Scope) -> OperatorToken:
        """The token of `request`. Raises 401 without a valid one, 403 if it lacks `scope`, 429 after too many attempts.

        Nothing else of the request is read before, so that a rejection depends only on the token.
        """
        credentials = _credentials(request)
        if credentials is None:
            raise _unauthorized(CHALLENGE, "this address needs an operator's token: Authorization: Bearer TOKEN")
        return require_scope(self.check(credentials, request.remote), scope)

    def check(self, credentials: bytes, peer: str | None) -> OperatorToken:
        """The token with these bytes, sent from the address `peer`. Raises 401 if there is none, 429 after too many
        attempts with a wrong one."""
        address = client_address(peer)
        if wait_s := self._failures.wait_s(address):
            raise _too_many_attempts(wait_s)
        token = self._find(credentials)
        if token is None:
            self._failures.add(address)
            raise _unauthorized(f'{CHALLENGE}, error="invalid_token"', "this token is not valid")
        return token

    def _find(self, credentials: bytes) -> OperatorToken | None:
        """Compares with every token, so that the time taken reveals nothing about any of them."""
        digest = hashlib.sha256(credentials).hexdigest()
        found = None
        for token in self._tokens:
            if hmac.compare_digest(token.sha256, digest):
                found = token
        return found


def require_scope(token: OperatorToken, scope: Scope) -> OperatorToken:
    """The token, if it has the scope. Raises 403 otherwise."""
    if scope not in token.scopes:
        raise _forbidden(scope)
    return token


def _credentials(request: web.Request) -> bytes | None:
    """The bytes of the bearer token; None for a request without one."""
    scheme, _, credentials = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    if scheme.lower() != "bearer" or not credentials.strip():
        return None
    return credentials.strip().encode(errors="surrogateescape")  # as aiohttp decodes headers


def _unauthorized(challenge: str, message: str) -> web.HTTPUnauthorized:
    return web.HTTPUnauthorized(text=message, headers={hdrs.WWW_AUTHENTICATE: challenge})


def _forbidden(scope: Scope) -> web.HTTPForbidden:
    challenge = f'{CHALLENGE}, error="insufficient_scope", scope="{scope}"'
    return web.HTTPForbidden(text=f"this token lacks the scope {scope}", headers={hdrs.WWW_AUTHENTICATE: challenge})


def _too_many_attempts(wait_s: float) -> web.HTTPTooManyRequests:
    seconds = math.ceil(wait_s)
    return web.HTTPTooManyRequests(
        text=f"too many attempts with a wrong token from this address: try again in {seconds} s",
        headers={hdrs.RETRY_AFTER: str(seconds)},
    )

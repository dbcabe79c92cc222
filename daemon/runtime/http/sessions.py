"""Sessions of operators in a browser: signed cookies, which every API process of every host can check (SPEC 13).

A session's key is derived from a signing secret of the webhook and from the hash of the token that began it: when
either is removed from the configuration, the session ends. Until then, and for SESSION_S at most, it has the scopes
that the token's entry has now. Only sessions that were ended by signing out are stored, for as long as a copy of the
cookie would be valid (`pages/ended_sessions.py`).
"""

import base64
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from daemon.runtime.operator_tokens import OperatorToken

# With this prefix a browser accepts the cookie from this host only, for all its paths, and over TLS; Chromium and
# Firefox count http://127.0.0.1 and http://localhost as secure too (RFC 6265bis, section 4.1.3.2).
COOKIE = "__Host-donationd-operator"
SESSION_S = 12 * 3600
_NONCE_BYTES = 16
_FORM = re.compile(
    r"(?P<content>(?P<expires_at>[0-9]{1,12})\.[A-Za-z0-9_-]{1,64})\.(?P<mac>[A-Za-z0-9_-]{43})", re.ASCII
)


class Session(NamedTuple):
    """A session whose cookie is valid now.

    Attributes:
        form_token: in each form that the session is shown, and nowhere else: a page of another site cannot know it.
        id: names the session where it is stored; no cookie can be made from it.
        expires_at: when its cookie stops being valid, in Unix seconds.
    """

    token: OperatorToken
    form_token: str
    id: bytes
    expires_at: int

    def accepts(self, form_token: str) -> bool:
        """Whether a form has this session's token."""
        return hmac.compare_digest(self.form_token.encode(), form_token.encode(errors="surrogateescape"))


class Sessions:
    """Begins and finds sessions.

    Args:
        tokens: those of OPERATOR_TOKENS.
        signing_secrets: those of STRIPE_WEBHOOK_SECRET; the first one signs, each is accepted.
        clock: Unix seconds.
    """

    def __init__(
        self,
        tokens: Sequence[OperatorToken],
        signing_secrets: Sequence[str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys = [(token, _key(secret, token)) for secret in signing_secrets for token in tokens]
        self._clock = clock

    def begin(self, token: OperatorToken, response: web.StreamResponse) -> None:
        """Adds the cookie of a new session to a response."""
        key = next(key for known, key in self._keys if known == token)
        content = f"{int(self._clock()) + SESSION_S}.{secrets.token_urlsafe(_NONCE_BYTES)}"
        _set_cookie(response, f"{content}.{_mac(key, 'session', content)}", SESSION_S)

    def delete_cookie(self, response: web.StreamResponse) -> None:
        """Deletes the cookie."""
        _set_cookie(response, "", 0)

    def find(self, request: web.Request) -> Session | None:
        """The session of a request's cookie; None without a valid one.

        The cookie is compared with every token's, so that the time taken reveals nothing about any of them.
        """
        cookie = _FORM.fullmatch(request.cookies.get(COOKIE, ""))
        if cookie is None:
            return None
        content, expires_at, found = cookie["content"], int(cookie["expires_at"]), None
        for token, key in self._keys:
            if hmac.compare_digest(_mac(key, "session", content), cookie["mac"]):
                id_ = hashlib.sha256(content.encode()).digest()
                found = Session(token, _mac(key, "form", content), id_, expires_at)
        return found if expires_at > self._clock() else None


def is_from_own_page(request: web.Request) -> bool:
    """Whether a browser states that a page of this host sent the request (Fetch Metadata; RFC 6454, section 7).

    Every browser of the last years sends at least one of the two headers with a form.
    """
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get(hdrs.ORIGIN)
    if site is None and origin is None:
        return False
    return site in (None, "same-origin") and (origin is None or urlsplit(origin).netloc == request.host)


def _key(secret: str, token: OperatorToken) -> bytes:
    return hmac.digest(secret.encode(), f"donationd operator session {token.sha256}".encode(), "sha256")


def _mac(key: bytes, purpose: str, content: str) -> str:
    mac = hmac.digest(key, f"{purpose} {content}".encode(), "sha256")
    return base64.urlsafe_b64encode(mac).decode().rstrip("=")


def _set_cookie(response: web.StreamResponse, value: str, max_age_s: int) -> None:
    response.set_cookie(COOKIE, value, max_age=max_age_s, path="/", secure=True, httponly=True, samesite="Strict")

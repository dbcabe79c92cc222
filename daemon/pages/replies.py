"""The replies of the public pages: HTML with the headers that keep it safe, cached for seconds, known by its ETag."""

import base64
import hashlib
from collections.abc import Mapping
from hashlib import blake2b
from importlib.resources import files

from aiohttp import hdrs, web
from markupsafe import Markup

from daemon.languages import CODES, Language
from daemon.pages.languages import language, preferred
from daemon.pages.rendering import HTML, StaticFile, render

# A name whose consent was withdrawn is gone after so long, also from what a CDN keeps: within a minute (SPEC 13).
MAX_AGE_S = 15
CACHED: dict[str, str] = {hdrs.CACHE_CONTROL: f"public, max-age={MAX_AGE_S}"}
NOT_CACHED: dict[str, str] = {hdrs.CACHE_CONTROL: "no-store"}
NO_SNIFFING: dict[str, str] = {"X-Content-Type-Options": "nosniff"}

_style = (files(__package__) / "static" / "public.css").read_text(encoding="utf-8").strip()
STYLE = Markup(_style)  # noqa: S704 - a file of this package
STYLE_HASH = base64.b64encode(hashlib.sha256(_style.encode()).digest()).decode()
KEPT_HEADERS: tuple[str, ...] = (hdrs.ALLOW, hdrs.RETRY_AFTER)  # those of an error that its page keeps
SCRIPT = StaticFile("/assets/ticket.js", "ticket.js")

# What a page may load and do: its own style sheet, which is in it, and where it is needed a script of this site.
SOURCES = f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; img-src 'self' data:; base-uri 'none'"
WITH_FORM = "; form-action 'self'"
WITHOUT_FORM = "; form-action 'none'"


def with_script(payment_sites: tuple[str, ...]) -> str:
    """What a page with the form to give may do: browsers apply form-action also to where the reply redirects to."""
    return f"; script-src 'self'; connect-src 'self'; form-action 'self' {' '.join(payment_sites)}"


def safety_headers(more_sources: str, frame_ancestors: tuple[str, ...] = ()) -> dict[str, str]:
    """The headers that limit what a page may do in a browser, and which sites may show it in a frame."""
    policy = f"{SOURCES}{more_sources}; frame-ancestors {' '.join(frame_ancestors) or chr(39) + 'none' + chr(39)}"
    headers = NO_SNIFFING | {"Content-Security-Policy": policy, "Referrer-Policy": "strict-origin-when-cross-origin"}
    return headers if frame_ancestors else headers | {"X-Frame-Options": "DENY"}


def reader_language(request: web.Request) -> tuple[Language, dict[str, str]]:
    """The reader's language, and the headers that say so: that of `lang`, which is part of the address, so that a CDN
    keeps one copy of each; otherwise the one that the browser prefers."""
    code = request.query.get("lang")
    if code in CODES:
        return language(code), {hdrs.CONTENT_LANGUAGE: code}
    code = preferred(request.headers.get(hdrs.ACCEPT_LANGUAGE, ""))
    return language(code), {hdrs.CONTENT_LANGUAGE: code, hdrs.VARY: hdrs.ACCEPT_LANGUAGE}


def page_text(template: str, language_: Language, **values: object) -> bytes:
    """The HTML of a public page."""
    return render(f"public/{template}.html", language=language_, t=language_.text, style=STYLE, **values).encode()


def tagged(request: web.Request, body: bytes, content_type: str, headers: Mapping[str, str]) -> web.Response:
    """A reply with its ETag; 304 to a client that has it (RFC 9110, section 13.1.2)."""
    tag = blake2b(body, digest_size=16).hexdigest()
    known = {each.value for each in request.if_none_match or ()}
    found = {**headers, hdrs.ETAG: f'"{tag}"'}
    if tag in known or "*" in known:
        return web.Response(status=304, headers=found)
    charset = None if content_type == "image/png" else "utf-8"
    return web.Response(body=body, content_type=content_type, charset=charset, headers=found)


def error_page(request: web.Request, error: web.StreamResponse) -> web.StreamResponse:
    """The same error as a page in the reader's language, unless it is one already."""
    if error.content_type == HTML:
        return error
    found, headers = reader_language(request)
    message = {404: "not_found"}.get(error.status, "unavailable" if error.status >= 500 else "bad_request")
    kept: dict[str, str] = {name: error.headers[name] for name in KEPT_HEADERS if name in error.headers}
    return web.Response(
        body=page_text("message", found, message=message),
        status=error.status,
        content_type=HTML,
        charset="utf-8",
        headers=safety_headers(WITHOUT_FORM) | headers | NOT_CACHED | kept,
    )

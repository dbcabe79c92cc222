"""Templates -> HTML, and the files that they name. Jinja2 escapes every value; no template turns that off."""

import hashlib
from datetime import UTC, date, datetime
from decimal import Decimal
from importlib.resources import files
from pathlib import PurePath
from typing import Any

from aiohttp import hdrs, web
from jinja2 import Environment, PackageLoader, StrictUndefined

HTML = "text/html"
CONTENT_TYPES = {".css": "text/css", ".js": "text/javascript"}
LASTING = "public, max-age=31536000, immutable"  # the address of a file names its content


def _minute(moment: datetime | None) -> str:
    """A time for people, in UTC: `2026-11-26 10:31`."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}" if moment else ""


def _second(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _unix(seconds: int) -> str:
    """A time in Unix seconds, as a time for people."""
    return _second(datetime.fromtimestamp(seconds, UTC))


def _grouped(number: Decimal | int | None) -> str:
    """An exact number with its digits in groups: `1,234,567.80`."""
    return "" if number is None else f"{number:,}"


def _iso(moment: date | datetime) -> str:
    """As the attribute `datetime` of HTML has it."""
    return moment.isoformat()


ENVIRONMENT = Environment(
    loader=PackageLoader("daemon.pages"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.filters |= {"unix": _unix, "minute": _minute, "second": _second, "grouped": _grouped, "iso": _iso}


def render(template: str, **values: Any) -> str:
    """The text of a template."""
    return ENVIRONMENT.get_template(template).render(values)


class StaticFile:
    """A style sheet or a script, made of files of the folder `static`.

    Args:
        path: where it is served, ending with .css or .js; `url` also names its content.
    """

    def __init__(self, path: str, *names: str) -> None:
        folder = files("daemon.pages") / "static"
        self._body = b"".join((folder / name).read_bytes() for name in names)
        self._path = path
        self.url = f"{path}?v={hashlib.sha256(self._body).hexdigest()[:16]}"

    def route(self) -> web.RouteDef:
        """Its route."""

        async def send(_request: web.Request) -> web.Response:
            headers = {hdrs.CACHE_CONTROL: LASTING, "X-Content-Type-Options": "nosniff"}
            content_type = CONTENT_TYPES[PurePath(self._path).suffix]
            return web.Response(body=self._body, content_type=content_type, charset="utf-8", headers=headers)

        return web.get(self._path, send)

"""Pure: the languages of the public pages, and which one a reader gets. The texts are in `messages/CODE.toml`."""

import tomllib
from functools import cache
from importlib import resources

from babel import Locale

from daemon.languages import CODES, DEFAULT, Language

HEADER_CHARACTERS = 1000  # of an Accept-Language header that are read; browsers send some fifty


@cache
def language(code: str) -> Language:
    """The language with one of CODES."""
    text = (resources.files(__package__) / "messages" / f"{code}.toml").read_text(encoding="utf-8")
    return Language(code, Locale.parse(code), tomllib.loads(text))


def preferred(accept_language: str) -> str:
    """The code of the language that an Accept-Language header (RFC 9110, section 12.5.4) prefers among CODES."""
    best, best_quality = DEFAULT, 0.0
    for each in accept_language[:HEADER_CHARACTERS].lower().split(","):
        range_, *options = (part.strip() for part in each.split(";"))
        code = range_.partition("-")[0]
        quality = _quality(options)
        if code in CODES and quality > best_quality:
            best, best_quality = code, quality
    return best


def _quality(options: list[str]) -> float:
    """The weight of a language range: 1 if none is given, 0 if it is malformed."""
    text = next((option[2:] for option in options if option.startswith("q=")), "1")
    try:
        return float(text) if 0 <= float(text) <= 1 else 0.0
    except ValueError:
        return 0.0

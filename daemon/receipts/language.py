"""The languages of mails and receipts. The texts are in `texts/CODE.toml`."""

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources

from babel import Locale, UnknownLocaleError

from daemon.languages import CODES, DEFAULT, Language


def known_language(*wanted: str | None) -> str:
    """The code of the first wanted language that there are texts for; `pt-BR` is wanted as `pt`. Else English."""
    codes = (tag.replace("_", "-").partition("-")[0].lower() for tag in wanted if tag)
    return next((code for code in codes if code in CODES), DEFAULT)


def language_of(code: str, country: str, changed: Mapping[str, str]) -> Language:
    """A language, as people of a country write it.

    Args:
        code: one of CODES.
        country: two letters; which of the language's ways to write dates and amounts.
        changed: texts that replace those of the package.
    """
    try:
        locale = Locale(code, country)
    except UnknownLocaleError:
        locale = Locale(code)
    return Language(code, locale, {**load_texts(code), **changed})


@cache
def load_texts(code: str) -> dict[str, str]:
    """The texts of one of CODES."""
    text = (resources.files(__package__) / "texts" / f"{code}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)

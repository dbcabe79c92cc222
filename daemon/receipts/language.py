"""The languages of mails and receipts: their texts, and amounts and dates as CLDR writes them.

A text is a line of `texts/LANGUAGE.toml`, with names in braces for what is filled in.
"""

import tomllib
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from functools import cache
from importlib import resources

from babel import Locale, UnknownLocaleError
from babel.dates import format_date
from babel.numbers import format_currency, get_currency_precision, get_decimal_quantum

from daemon.ledger import money

DEFAULT = "en"


@cache
def languages() -> tuple[str, ...]:
    """The codes of the languages that there are texts for."""
    folder = resources.files(__package__) / "texts"
    return tuple(sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml")))


def known_language(*wanted: str | None) -> str:
    """The code of the first wanted language that there are texts for; `pt-BR` is wanted as `pt`. Else English."""
    codes = (tag.replace("_", "-").partition("-")[0].lower() for tag in wanted if tag)
    return next((code for code in codes if code in languages()), DEFAULT)


class Language:
    """One language, as people of a country write it.

    Args:
        code: one of `languages()`.
        country: two letters; which of the language's ways to write dates and amounts.
        changed: texts that replace those of the package.
    """

    def __init__(self, code: str, country: str, changed: Mapping[str, str] | None = None) -> None:
        self.code = code
        self.texts = {**load_texts(code), **(changed or {})}
        self._locale = _locale(code, country)

    @property
    def direction(self) -> str:
        """The direction of its script: `ltr` or `rtl`."""
        return str(self._locale.text_direction)

    def text(self, name: str, /, **values: object) -> str:
        """A text with what is filled in. Raises KeyError for an unknown text or a value that is missing.

        Between characters that are written from right to left, a value keeps its own direction
        (https://www.unicode.org/reports/tr9/#Explicit_Directional_Isolates).
        """
        isolate = "\u2068{}\u2069" if self.direction == "rtl" else "{}"
        return self.texts[name].format_map({key: isolate.format(value) for key, value in values.items()})

    def amount(self, minor: int, currency: str) -> str:
        """An exact amount with its currency, such as `€50.00`; without decimals only where CLDR writes none and they
        are zeros."""
        amount = Decimal(minor).scaleb(-money.exponent(currency))
        if amount == amount.quantize(get_decimal_quantum(get_currency_precision(currency))):
            return format_currency(amount, currency, locale=self._locale)
        pattern = self._locale.currency_formats["standard"].pattern.replace(
            "0.00", f"0.{'0' * money.exponent(currency)}"
        )
        return format_currency(amount, currency, pattern, locale=self._locale, currency_digits=False)

    def date(self, day: date) -> str:
        """A day with the month's name, such as `26 November 2026`."""
        return format_date(day, "long", locale=self._locale)

    def country(self, code: str) -> str:
        """The name of a country; its code where CLDR has no name."""
        return str(self._locale.territories.get(code, code))


@cache
def load_texts(code: str) -> dict[str, str]:
    """The texts of one of `languages()`."""
    text = (resources.files(__package__) / "texts" / f"{code}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _locale(code: str, country: str) -> Locale:
    try:
        return Locale(code, country)
    except UnknownLocaleError:
        return Locale(code)

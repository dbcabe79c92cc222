"""Pure: the languages of the public pages: which one a reader gets, and how texts, amounts and times are written in it.

The texts are in `messages/CODE.toml`, a file for each language; `{name}` in a text is replaced by a value. A table is a
text with plural forms, named as CLDR names them (https://cldr.unicode.org/index/cldr-spec/plural-rules). Amounts and
times are written by CLDR's rules, which Babel contains.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, tzinfo
from decimal import Decimal
from functools import cache
from importlib import resources

from babel import Locale
from babel.dates import format_date, format_time, get_datetime_format, get_timezone_gmt
from babel.numbers import format_currency, format_decimal, format_percent, get_currency_name

from daemon.ledger import money

CODES = ("en", "de", "es", "fr", "ar")
DEFAULT = CODES[0]
HEADER_CHARACTERS = 1000  # of an Accept-Language header that are read; browsers send some fifty
# What is put into a sentence keeps its own direction, and does not change that of the sentence (Unicode, UAX #9).
FIRST_STRONG_ISOLATE, POP_ISOLATE = "\u2068", "\u2069"

Text = str | Mapping[str, str]


@dataclass(frozen=True)
class Language:
    """One language of the pages."""

    code: str
    locale: Locale
    messages: Mapping[str, Text]

    @property
    def direction(self) -> str:
        """The direction of its script, as HTML's `dir`."""
        return str(self.locale.text_direction)

    @property
    def name(self) -> str:
        """Its own name for itself."""
        name = self.locale.get_display_name(self.locale) or self.code
        return name[:1].upper() + name[1:]

    def text(self, key: str, count: int | None = None, **values: object) -> str:
        """A text of the catalogue with its values; `count` chooses the plural form and is the value `count`."""
        text = self.messages[key]
        if isinstance(text, Mapping):
            text = text[self.locale.plural_form(count or 0)]
        if count is not None:
            values["count"] = self.number(count)
        return text.format(**{name: self._isolated(str(value)) for name, value in values.items()})

    def _isolated(self, value: str) -> str:
        return f"{FIRST_STRONG_ISOLATE}{value}{POP_ISOLATE}" if self.direction == "rtl" else value

    def number(self, number: int) -> str:
        """A whole number with its separators of thousands."""
        return format_decimal(number, locale=self.locale)

    def percent(self, part: int, whole: int) -> str:
        """How much of the whole a part is, in whole percent, rounded down: 100 % means that all of it is there."""
        return format_percent(Decimal(part * 100 // whole).scaleb(-2), locale=self.locale)

    def amount(self, amount_minor: int, currency: str, *, short: bool = False) -> str:
        """An exact amount with its currency; `short`: without decimals that are all zero."""
        exponent = money.exponent(currency)
        amount = Decimal(amount_minor).scaleb(-exponent)
        digits = 0 if short and amount == amount.to_integral_value() else exponent
        decimals = f".{'0' * digits}" if digits else ""
        pattern = self.locale.currency_formats["standard"].pattern.replace(".00", decimals)
        return format_currency(amount, currency, pattern, locale=self.locale, currency_digits=False)

    def currency_name(self, currency: str) -> str:
        """A currency's name as it stands after a number: `US dollars`."""
        return get_currency_name(currency, count=10, locale=self.locale)

    def moment(self, at: datetime, zone: tzinfo) -> str:
        """A date with its time and its time zone."""
        local = at.astimezone(zone)
        name = get_timezone_gmt(local, "long", self.locale) if local.utcoffset() else "UTC"
        time = f"{format_time(local, 'short', locale=self.locale)} {name}"
        return str(get_datetime_format("long", locale=self.locale)).format(time, self.day(at, zone))

    def day(self, at: datetime, zone: tzinfo) -> str:
        """A date."""
        return format_date(at.astimezone(zone).date(), "long", locale=self.locale)


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

"""Pure: how texts, amounts and times are written in a language, for pages, mails and receipts.

The texts are in a file `CODE.toml` for each language, beside what uses them; `{name}` in a text is replaced by a value.
A table is a text with plural forms, named as CLDR names them (https://cldr.unicode.org/index/cldr-spec/plural-rules).
Amounts and times are written by CLDR's rules, which Babel contains.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, tzinfo
from decimal import Decimal

from babel import Locale
from babel.dates import format_date, format_time, get_datetime_format, get_timezone_gmt
from babel.numbers import (
    format_currency,
    format_decimal,
    format_percent,
    get_currency_name,
    get_currency_symbol,
    get_decimal_symbol,
)

from daemon.ledger import money

CODES = ("en", "de", "es", "fr", "ar")
DEFAULT = CODES[0]
# What is put into a sentence keeps its own direction, and does not change that of the sentence (Unicode, UAX #9).
FIRST_STRONG_ISOLATE, POP_ISOLATE = "\u2068", "\u2069"
# A sign at the end of Latin letters, as in US$, would stand on their left in a text from right to left (UAX #9).
LATIN_LETTER, LEFT_TO_RIGHT_MARK = re.compile("[A-Za-z]"), "\u200e"
# Between a currency's letters and digits there is a space (https://www.unicode.org/reports/tr35/tr35-numbers.html,
# currencySpacing), which Babel leaves out.
WITHOUT_SPACE = re.compile(r"(?<=[A-Za-z])(?=\d)")

Text = str | Mapping[str, str]


@dataclass(frozen=True)
class Language:
    """One language: its texts, and how amounts and times are written in it."""

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
        return text.format(**{name: self.isolated(str(value)) for name, value in values.items()})

    def isolated(self, value: str) -> str:
        """A text of a person's, which keeps its own direction beside texts of this language."""
        return f"{FIRST_STRONG_ISOLATE}{value}{POP_ISOLATE}" if self.direction == "rtl" else value

    def number(self, number: int) -> str:
        """A whole number with its separators of thousands."""
        return format_decimal(number, locale=self.locale)

    def percent(self, part: int, whole: int) -> str:
        """How much of the whole a part is, in whole percent, rounded down: 100 % means that all of it is there."""
        return format_percent(Decimal(part * 100 // whole).scaleb(-2), locale=self.locale)

    @property
    def decimal_separator(self) -> str:
        """What stands before decimals."""
        return get_decimal_symbol(self.locale)

    def amount(self, amount_minor: int, currency: str, *, short: bool = False) -> str:
        """An exact amount with its currency; `short`: without decimals that are all zero."""
        exponent = money.exponent(currency)
        amount = Decimal(amount_minor).scaleb(-exponent)
        digits = 0 if short and amount == amount.to_integral_value() else exponent
        decimals = f".{'0' * digits}" if digits else ""
        pattern = self.locale.currency_formats["standard"].pattern.replace(".00", decimals)
        written = format_currency(amount, currency, pattern, locale=self.locale, currency_digits=False)
        symbol = get_currency_symbol(currency, locale=self.locale)
        if self.direction == "rtl" and LATIN_LETTER.search(symbol):
            written = written.replace(symbol, symbol + LEFT_TO_RIGHT_MARK)
        return WITHOUT_SPACE.sub("\u00a0", written)

    def currency_name(self, currency: str) -> str:
        """A currency's name as it stands after a number: `US dollars`."""
        return get_currency_name(currency, count=10, locale=self.locale)

    def country(self, code: str) -> str:
        """A country's name; its code where CLDR has no name."""
        return str(self.locale.territories.get(code, code))

    def moment(self, at: datetime, zone: tzinfo) -> str:
        """A date with its time and its time zone."""
        local = at.astimezone(zone)
        name = get_timezone_gmt(local, "long", self.locale) if local.utcoffset() else "UTC"
        time = f"{format_time(local, 'short', locale=self.locale)} {name}"
        return str(get_datetime_format("long", locale=self.locale)).format(time, self.day(at, zone))

    def day(self, at: datetime, zone: tzinfo) -> str:
        """A date."""
        return format_date(at.astimezone(zone).date(), "long", locale=self.locale)

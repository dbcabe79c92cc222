"""Pure: what the templates of a ticket's pages show, in the reader's language."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from typing import NamedTuple

from daemon.languages import Language
from daemon.ledger import money
from daemon.pages.tickets import PublicTicket

# Amounts to choose from, in major units. Where money has other sizes, a currency has a row of its own.
PRESETS = (10, 25, 50, 100)
PRESETS_OF = {
    **dict.fromkeys(("KWD", "BHD", "OMR", "JOD", "TND"), (5, 10, 20, 50)),
    **dict.fromkeys(("CZK", "DKK", "NOK", "SEK", "MXN", "TRY", "ZAR", "HKD", "THB", "PHP"), (100, 250, 500, 1000)),
    **dict.fromkeys(("INR", "TWD", "RUB", "EGP"), (250, 500, 1000, 2500)),
    **dict.fromkeys(("JPY", "ISK", "HUF"), (1000, 3000, 5000, 10_000)),
    **dict.fromkeys(("KRW", "CLP", "UGX", "RWF", "XAF", "XOF", "XPF"), (10_000, 25_000, 50_000, 100_000)),
}
THREE_DIGITS = 3  # a group, or the decimals of a currency that has the most
PRESET = 1  # the place of the amount that is chosen at first
# As people write an amount: digits, or groups of three of them; then, after a point or comma, up to three decimals.
# Three digits after a single point or comma are no amount: 1.000 is a thousand to some readers, and one to others. In a
# currency with three decimals they are decimals, if that is the language's decimal separator.
AMOUNT = re.compile(
    r"(?P<whole>\d{1,12}|\d{1,3}(?:[' ]\d{3})+|\d{1,3}(?:\.\d{3}){2,}|\d{1,3}(?:,\d{3}){2,}"
    r"|\d{1,3}(?:\.\d{3})+(?=,)|\d{1,3}(?:,\d{3})+(?=\.))(?:(?P<separator>[.,])(?P<part>\d{1,3}))?",
    re.ASCII,
)
LOOKS_GROUPED = re.compile(r"[1-9]\d{0,2}", re.ASCII)  # before a separator and three digits
NOT_DIGIT = re.compile(r"[^0-9]")
SEPARATORS = str.maketrans({"٫": ".", "٬": ",", "’": "'", "\u00a0": " ", "\u202f": " "})


class Goal(NamedTuple):
    """A ticket's goal, and how near it is. `bar` is the total as far as a bar can show it, in minor units."""

    minor: int
    bar: int
    percent: str
    amount: str
    is_reached: bool


class Line(NamedTuple):
    """A line of the list of donations. `is_rest`: all donations that have no line of their own."""

    label: str
    detail: str
    amount: str
    is_rest: bool


class Preset(NamedTuple):
    """An amount to choose: the text that the form sends, and the text that is shown."""

    value: str
    label: str


class Entered(NamedTuple):
    """The fields of the form as the donor has filled them in.

    `amount` is in major units: the other one if it is filled in. None if it is no amount.
    """

    monthly: bool = False
    preset: str = ""
    other: str = ""
    cover_fees: bool = False
    show_name: bool = False
    amount: Decimal | None = None

    @classmethod
    def of(cls, fields: Mapping[str, str], currency: str, language: Language) -> "Entered":
        """Reads the fields that a browser sends; a box that is not checked is missing."""
        preset, other = fields.get("preset", ""), fields.get("other", "").strip()
        return cls(
            fields.get("rhythm") == "monthly",
            preset,
            other,
            "cover" in fields,
            "show" in fields,
            parsed_amount(other or preset, currency, language),
        )


class Form(NamedTuple):
    """The form to give."""

    monthly: bool
    presets: Sequence[Preset]
    preset: str
    other: str
    currency_name: str
    example: str
    can_cover_fees: bool
    cover_fees: bool
    show_name: bool
    error: str
    is_amount_wrong: bool


def parsed_amount(text: str, currency: str, language: Language) -> Decimal | None:
    """An amount above zero as people write it, in any script's digits; None for any other text."""
    digits = "".join(str(unicodedata.decimal(each, each)) for each in text.strip().translate(SEPARATORS))
    match = AMOUNT.fullmatch(digits)
    if match is None or (len(match["part"] or "") == THREE_DIGITS and not _are_decimals(match, currency, language)):
        return None
    amount = Decimal(f"{NOT_DIGIT.sub('', match['whole'])}.{match['part'] or '0'}")
    return amount if amount > 0 else None


def _are_decimals(match: re.Match[str], currency: str, language: Language) -> bool:
    """Whether three digits behind a separator are decimals."""
    is_certain = match["separator"] == language.decimal_separator or not LOOKS_GROUPED.fullmatch(match["whole"])
    return money.exponent(currency) == THREE_DIGITS and is_certain


def goal(ticket: PublicTicket, language: Language) -> Goal | None:
    """The goal of a ticket; None if it has none."""
    if not ticket.goal_minor:
        return None
    raised = max(0, ticket.total.net_minor)
    return Goal(
        ticket.goal_minor,
        min(raised, ticket.goal_minor),
        language.percent(raised, ticket.goal_minor),
        language.amount(ticket.goal_minor, ticket.currency, short=True),
        raised >= ticket.goal_minor,
    )


def lines(ticket: PublicTicket, language: Language, zone: tzinfo) -> list[Line]:
    """The donations by name, the newest first, and per currency one line for all others: together the totals."""
    shown = [
        Line(
            each.name,
            language.day(datetime.fromtimestamp(each.paid_at, UTC), zone),
            language.amount(each.net_minor, each.currency),
            is_rest=False,
        )
        for each in ticket.named
    ]
    label = language.text("others" if ticket.has_more_named else "anonymous")
    rest = [
        Line(
            label,
            language.text("count_donations", count=each.donations) if each.donations > 0 else "",
            language.amount(each.net_minor, each.currency),
            is_rest=True,
        )
        for each in ticket.others
    ]
    return shown + rest


def description(ticket: PublicTicket, language: Language) -> str:
    """One sentence for other sites: the total, and how near the goal is."""
    raised = f"{language.amount(ticket.total.net_minor, ticket.currency, short=True)} {language.text('raised')}"
    near = goal(ticket, language)
    if near is None:
        return raised
    return f"{raised} – {language.text('raised_of_goal', percent=near.percent, goal=near.amount)}"


def form(
    ticket: PublicTicket, language: Language, *, can_cover_fees: bool, entered: Entered | None = None, error: str = ""
) -> Form:
    """The form for a ticket: as the donor has filled it in, or as it is at first.

    Args:
        error: the message of the catalogue that says what is wrong; empty at first.
    """
    amounts = PRESETS_OF.get(ticket.currency, PRESETS)
    presets = [
        Preset(str(each), language.amount(each * 10 ** money.exponent(ticket.currency), ticket.currency, short=True))
        for each in amounts
    ]
    filled = entered or Entered(preset=presets[PRESET].value)
    example = language.amount(amounts[0] * 10 ** money.exponent(ticket.currency), ticket.currency)
    return Form(
        filled.monthly,
        presets,
        filled.preset,
        filled.other,
        language.currency_name(ticket.currency),
        example,
        can_cover_fees,
        filled.cover_fees,
        filled.show_name,
        language.text(error, example=example) if error else "",
        error in ("error_amount", "error_range"),
    )

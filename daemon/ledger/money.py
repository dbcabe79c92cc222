"""Currencies and exact amounts: minor units inside, decimal digits outside, no binary float anywhere.

Exponents as Stripe uses them: https://docs.stripe.com/currencies#zero-decimal (ISK and UGX are sent with two).
"""

import re
from decimal import Decimal

ZERO_DECIMAL = frozenset("BIF CLP DJF GNF JPY KMF KRW MGA PYG RWF VND VUV XAF XOF XPF".split())
THREE_DECIMAL = frozenset("BHD JOD KWD OMR TND".split())
CURRENCY = re.compile(r"[A-Z]{3}")
DIGITS = 12  # of an amount in major units: more than Stripe takes
SYMBOLS = {"USD": "$", "EUR": "€", "GBP": "£", "JPY": "¥"}


def exponent(currency: str) -> int:
    """How many decimals an amount in this currency (upper case) has: 0, 2 or 3."""
    if currency in ZERO_DECIMAL:
        return 0
    return 3 if currency in THREE_DECIMAL else 2


def major(amount_minor: int, currency: str) -> str:
    """Minor units as an exact decimal in major units: `major(5000, "USD") == "50.00"`; also a valid JSON number."""
    digits = exponent(currency)
    sign = "-" if amount_minor < 0 else ""
    whole, part = divmod(abs(amount_minor), 10**digits)
    return f"{sign}{whole}" if digits == 0 else f"{sign}{whole}.{part:0{digits}d}"


def display(amount_minor: int, currency: str) -> str:
    """An amount for people: `$50.00`, or `CHF 50.00` where the currency has no symbol of its own here."""
    return with_symbol(major(amount_minor, currency), currency)


def with_symbol(amount: str, currency: str) -> str:
    """An amount in major units, as text, for people: its sign, its currency's symbol, its digits."""
    symbol = SYMBOLS.get(currency, f"{currency} ")
    return f"-{symbol}{amount[1:]}" if amount.startswith("-") else f"{symbol}{amount}"


def minor(amount: Decimal, currency: str) -> int:
    """An amount above zero in major units as minor units. Raises ValueError if it is not one of this currency."""
    decimals = exponent(currency)
    if not (amount.is_finite() and 0 < amount < 10**DIGITS):
        raise ValueError(f"an amount is above 0 and has at most {DIGITS} digits before the point")
    _, digits, power = amount.as_tuple()  # calculating with a Decimal would round it
    significant = "".join(map(str, digits)).rstrip("0")
    zeros = int(power) + len(digits) - len(significant) + decimals
    if zeros < 0:
        raise ValueError(f"an amount in {currency} has at most {decimals} decimals")
    return int(significant) * int(10**zeros)

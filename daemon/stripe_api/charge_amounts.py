"""Pure: which amounts Stripe charges, and how much to charge so that its fee leaves a whole amount; in minor units."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from daemon.ledger import money

# The smallest charges: https://docs.stripe.com/currencies#minimum-and-maximum-charge-amounts. For other currencies
# Stripe compares with the minimum of the account's own currency, after its own conversion.
MIN_MINOR = {
    **{"USD": 50, "AED": 200, "AUD": 50, "BGN": 100, "BRL": 50, "CAD": 50, "CHF": 50, "CZK": 1500, "DKK": 250},
    **{"EUR": 50, "GBP": 30, "HKD": 400, "HUF": 17500, "INR": 50, "JPY": 50, "MXN": 1000, "MYR": 200, "NOK": 300},
    **{"NZD": 50, "PLN": 200, "RON": 200, "SEK": 300, "SGD": 50, "THB": 1000},
}
MAX_DIGITS = {"IDR": 12}  # of an amount in minor units, at the same place; eight in all other currencies
# Sent with two decimals, although the currency has none: https://docs.stripe.com/currencies#special-cases
HUNDREDS = frozenset({"ISK", "UGX"})

_MILLION = 1_000_000
_FEE = re.compile(r"([A-Z]{3}) ([0-9]{1,2}(?:\.[0-9]{1,4})?)%(?: \+ ([0-9]{1,9}(?:\.[0-9]{1,3})?))?", re.ASCII)


class ImpossibleAmount(ValueError):
    """An amount that Stripe does not charge; the message is for the person who gives."""


def step_minor(currency: str) -> int:
    """What every amount in this currency is a multiple of; for three decimals see
    https://docs.stripe.com/currencies#three-decimal.
    """
    if currency in HUNDREDS:
        return 100
    return 10 if currency in money.THREE_DECIMAL else 1


def check_charge(amount_minor: int, currency: str) -> None:
    """Raises ImpossibleAmount if Stripe does not charge this amount."""
    step = step_minor(currency)
    if amount_minor % step:
        raise ImpossibleAmount(f"an amount in {currency} is a multiple of {money.major(step, currency)}")
    least = MIN_MINOR.get(currency, step)
    if amount_minor < least:
        raise ImpossibleAmount(f"the smallest amount in {currency} is {money.major(least, currency)}")
    most = 10 ** MAX_DIGITS.get(currency, 8) - step
    if amount_minor > most:
        raise ImpossibleAmount(f"the largest amount in {currency} is {money.major(most, currency)}")


class Fee(NamedTuple):
    """What Stripe takes of a charge: a share in millionths, and a fixed part in minor units."""

    millionths: int
    fixed_minor: int

    def of(self, charged_minor: int) -> int:
        """The fee of a charge; a part of a minor unit counts as a whole one, so it is never more than this."""
        return self.fixed_minor - (-charged_minor * self.millionths // _MILLION)


def covering(wanted_minor: int, fee: Fee, currency: str) -> int:
    """The smallest amount that can be charged and of which at least `wanted_minor` is left after the fee.

    With c - ceil(c * share) = floor(c * (1 - share)), that is the smallest c with c * (1 - share) >= wanted + fixed.
    """
    left, step = (wanted_minor + fee.fixed_minor) * _MILLION, step_minor(currency) * (_MILLION - fee.millionths)
    return -(-left // step) * step_minor(currency)


def parse_fees(text: str) -> Mapping[str, Fee]:
    """Reads a setting such as `USD 2.9% + 0.30, EUR 1.5% + 0.25`. Raises ValueError for any other text."""
    fees: dict[str, Fee] = {}
    for part in text.split(","):
        found = _FEE.fullmatch(part.strip())
        if found is None:
            raise ValueError(
                "needs a share and a fixed part for each currency, such as USD 2.9% + 0.30, EUR 1.5% + 0.25"
            )
        currency, percent, fixed = found.groups()
        if currency in fees:
            raise ValueError(f"names {currency} twice")
        whole, _, decimals = percent.partition(".")
        fees[currency] = Fee(int(whole) * 10_000 + int(f"{decimals:0<4}"), _fixed(fixed or "", currency))
    return fees


def _fixed(text: str, currency: str) -> int:
    whole, _, decimals = text.partition(".")
    digits = money.exponent(currency)
    if len(decimals) > digits:
        raise ValueError(f"has more than {digits} decimals in {currency}")
    return int(f"{whole}{decimals:0<{digits}}" or "0")

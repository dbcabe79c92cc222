"""Amounts in major and minor units: the same number, exactly."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.ledger import money

CURRENCIES = st.sampled_from(["USD", "JPY", "KWD", "ISK"])


@given(amount=st.integers(min_value=1, max_value=10**11), currency=CURRENCIES, zeros=st.integers(0, 40))
def test_an_amount_in_major_units_is_read_exactly(amount: int, currency: str, zeros: int) -> None:
    """What `major` writes, `minor` reads, also with more zeros at its end than a Decimal calculates with."""
    written = money.major(amount, currency)
    longer = written + ("" if "." in written else ".") + "0" * zeros
    assert money.minor(Decimal(written), currency) == amount
    assert money.minor(Decimal(longer), currency) == amount


@pytest.mark.parametrize(
    "text",
    ["0", "-1", "1000000000000", "1e999999999", "1e-999999999", "NaN", "Infinity", "-0.0", "0.001",
     "1.0000000000000000000000000000000000001", "1.005", "0." + "0" * 10000 + "1", "1." + "1" * 5000],
)  # fmt: skip
def test_what_is_no_amount_is_rejected_and_never_rounded(text: str) -> None:
    """Zero, negative, too large, without an end, and with more decimals than the currency has."""
    with pytest.raises(ValueError, match="an amount"):
        money.minor(Decimal(text), "USD")


def test_an_exponent_is_a_number_too() -> None:
    """`5e3` is 5000."""
    assert (money.minor(Decimal("5e3"), "JPY"), money.minor(Decimal("5e3"), "KWD")) == (5000, 5_000_000)

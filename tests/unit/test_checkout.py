"""The amounts that Stripe charges, fees that donors cover, and the parameters of Checkout Sessions."""

import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.ledger import money
from daemon.ledger.events.sessions import SHOW_NAME_KEY
from daemon.stripe_api.charge_amounts import (
    MIN_MINOR,
    Fee,
    ImpossibleAmount,
    check_charge,
    covering,
    parse_fees,
    step_minor,
)
from daemon.stripe_api.checkout import (
    AMOUNT_FORM,
    CheckoutRequest,
    InvalidCheckout,
    Target,
    charged_minor,
    idempotency_key,
    read_json,
    session_params,
)

CURRENCIES = st.sampled_from(
    sorted({*MIN_MINOR, *money.ZERO_DECIMAL, *money.THREE_DECIMAL, "ISK", "UGX", "IDR", "ZAR"})
)
FEES = st.builds(Fee, st.integers(0, 990_000), st.integers(0, 10**6))
TARGET = Target("story-1", "The roof", "https://give.example.org")
KEY = "0d1f6a4e-3c1b-4b59-9a55-cc13d8a1a5f0"


@given(st.integers(1, 10**12), FEES, CURRENCIES)
def test_a_covered_amount_arrives_whole_and_no_smaller_charge_would_do(wanted: int, fee: Fee, currency: str) -> None:
    """After the fee, with a part of a minor unit counted as a whole one, at least it is left; of the amounts that
    Stripe charges in this currency it is the smallest.
    """
    charged, step = covering(wanted, fee, currency), step_minor(currency)
    assert charged % step == 0
    assert charged - fee.of(charged) >= wanted
    assert charged - step - fee.of(charged - step) < wanted


@given(st.integers(1, 10**12), FEES)
def test_a_fee_is_never_less_than_its_exact_share(charged: int, fee: Fee) -> None:
    """The fee is the exact share, with less than one minor unit more, and the fixed part."""
    above = (fee.of(charged) - fee.fixed_minor) * 1_000_000 - charged * fee.millionths
    assert 0 <= above < 1_000_000


def test_a_covered_fee_by_hand() -> None:
    """25.00 USD with 2.9 % and 0.30: 26.06 is charged, the fee is 0.76 (25.30 / 0.971 = 26.0556)."""
    fee = parse_fees("USD 2.9% + 0.30")["USD"]
    assert (covering(2500, fee, "USD"), fee.of(2606)) == (2606, 106)


@pytest.mark.parametrize(
    ("text", "fees"),
    [
        ("USD 2.9% + 0.30, EUR 1.5% + 0.25", {"USD": Fee(29_000, 30), "EUR": Fee(15_000, 25)}),
        ("JPY 3.6%", {"JPY": Fee(36_000, 0)}),
        ("JPY 3.6% + 40", {"JPY": Fee(36_000, 40)}),
        ("KWD 0.0001% + 0.1", {"KWD": Fee(1, 100)}),
        ("GBP 0% + 1", {"GBP": Fee(0, 100)}),
    ],
)
def test_fees_are_read_exactly(text: str, fees: dict[str, Fee]) -> None:
    """Percentages and fixed parts become whole numbers."""
    assert parse_fees(text) == fees


@pytest.mark.parametrize(
    "text",
    ["", "USD", "usd 1%", "USD 100%", "USD -1%", "USD 1% + 0.305", "JPY 1% + 0.5", "USD 1%, USD 2%", "USD 1.00001%"],
)
def test_other_texts_are_no_fees(text: str) -> None:
    """A percentage is below 100 with at most four decimals; a fixed part has the currency's decimals."""
    with pytest.raises(ValueError, match=r"needs|decimals|twice"):
        parse_fees(text)


@pytest.mark.parametrize(
    ("amount_minor", "currency", "said"),
    [
        (49, "USD", "the smallest amount in USD is 0.50"),
        (50, "USD", ""),
        (99_999_999, "USD", ""),
        (100_000_000, "USD", "the largest amount in USD is 999999.99"),
        (999_999_999_999, "IDR", ""),
        (49, "JPY", "the smallest amount in JPY is 50"),
        (150, "ISK", "an amount in ISK is a multiple of 1.00"),
        (100, "ISK", ""),
        (12_345, "KWD", "an amount in KWD is a multiple of 0.010"),
        (99_999_990, "KWD", ""),
        (100_000_000, "KWD", "the largest amount in KWD is 99999.990"),
        (1, "ZAR", ""),
        (0, "ZAR", "the smallest amount in ZAR is 0.01"),
    ],
)
def test_which_amounts_stripe_charges(amount_minor: int, currency: str, said: str) -> None:
    """Minimum, maximum and steps, at their borders."""
    if not said:
        return check_charge(amount_minor, currency)
    with pytest.raises(ImpossibleAmount, match=f"^{re.escape(said)}$"):
        check_charge(amount_minor, currency)


@given(st.integers(1, 10**11), CURRENCIES)
def test_an_amount_is_exact_as_a_number_and_as_text(amount_minor: int, currency: str) -> None:
    """What a request writes is what is charged, to the minor unit: no number passes through a binary float."""
    amount_minor -= amount_minor % step_minor(currency)
    text = money.major(amount_minor, currency)
    for written in (text, f'"{text}"'):
        wanted = read_json(f'{{"amount":{written},"currency":"{currency}"}}'.encode())
        assert money.minor(wanted.amount, currency) == amount_minor if amount_minor else wanted.amount == 0


NOT_AMOUNTS = ('"canary"', "true", '"5_0"', '"٥"', '" 5 "', '"5,00"', '"+5"', '"5."', '"1e3"', "1e3", "-5", '"NaN"')


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "the body is not JSON"),
        (b"\xff", "the body is not JSON"),
        (b"[]", "the body is not a JSON object"),
        (b"{}", "amount: not given"),
        *((f'{{"amount":{written}}}'.encode(), AMOUNT_FORM) for written in NOT_AMOUNTS),
        (b'{"amount":5,"monthly":"canary"}', "monthly: true or false"),
        (b'{"amount":5,"currency":5}', "currency: text such as EUR"),
        (b'{"amount":5,"canary":5}', "unknown parameter (there are: amount, currency, monthly, coverFees, showName)"),
    ],
)
def test_a_body_that_is_no_request(body: bytes, said: str) -> None:
    """The error names the parameter and what it must be, and repeats nothing of the request."""
    with pytest.raises(InvalidCheckout, match=f"^{re.escape(said)}$"):
        read_json(body)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (CheckoutRequest(amount=Decimal("0.499"), currency="USD"), "amount: an amount in USD has at most 2 decimals"),
        (CheckoutRequest(amount=Decimal("0.49"), currency="USD"), "amount: the smallest amount in USD is 0.50"),
        (
            CheckoutRequest(amount=Decimal(-5), currency="USD"),
            "amount: an amount is above 0 and has at most 12 digits before the point",
        ),
        (
            CheckoutRequest(amount=Decimal("NaN"), currency="USD"),
            "amount: an amount is above 0 and has at most 12 digits before the point",
        ),
        (
            CheckoutRequest(amount=Decimal(5), cover_fees=True),
            "coverFees: the fee of payments in EUR is not known here",
        ),
        (
            CheckoutRequest(amount=Decimal("999999.99"), currency="USD", cover_fees=True),
            "amount: the largest amount in USD is 999999.99",
        ),
    ],
)
def test_an_amount_that_stripe_does_not_charge(wanted: CheckoutRequest, said: str) -> None:
    """The error names the parameter and the limit."""
    with pytest.raises(InvalidCheckout, match=f"^{re.escape(said)}$"):
        charged_minor(wanted, wanted.currency or "EUR", parse_fees("USD 2.9% + 0.30"))


def test_a_single_payment_carries_its_ticket_on_session_and_payment() -> None:
    """Session metadata is not inherited, so the PaymentIntent has the ticket too; Checkout says "donate"."""
    params = session_params(CheckoutRequest(amount=Decimal(25)), 2500, "USD", TARGET)
    assert (params["mode"], params["submit_type"]) == ("payment", "donate")
    assert params["metadata"] == params["payment_intent_data"]["metadata"] == {"ticketId": "story-1"}
    assert params["client_reference_id"] == "story-1"
    [item] = params["line_items"]
    assert item["price_data"] == {"currency": "usd", "unit_amount": 2500, "product_data": {"name": "The roof"}}
    assert params["success_url"].startswith("https://give.example.org/tickets/story-1?")
    assert params["cancel_url"] == "https://give.example.org/tickets/story-1"


def test_a_monthly_payment_carries_its_ticket_on_session_and_subscription() -> None:
    """`submit_type` is allowed in mode payment only."""
    params = session_params(CheckoutRequest(amount=Decimal(25), monthly=True), 2500, "USD", TARGET._replace(title=""))
    assert params["mode"] == "subscription"
    assert {"submit_type", "payment_intent_data"}.isdisjoint(params)
    assert params["metadata"] == params["subscription_data"]["metadata"] == {"ticketId": "story-1"}
    [item] = params["line_items"]
    assert item["price_data"]["recurring"] == {"interval": "month"}
    assert item["price_data"]["product_data"] == {"name": "story-1"}


@pytest.mark.parametrize("show_name", [False, True])
def test_checkout_asks_for_consent(show_name: bool) -> None:
    """The choice made on the ticket page is selected; without one it is "no". Key and label keep Stripe's limits."""
    [field] = session_params(CheckoutRequest(amount=Decimal(5), show_name=show_name), 500, "USD", TARGET)[
        "custom_fields"
    ]
    assert field["key"] == SHOW_NAME_KEY
    assert SHOW_NAME_KEY.isalnum()
    assert field["dropdown"]["default_value"] == ("yes" if show_name else "no")
    assert len(field["label"]["custom"]) <= 50


def test_the_clients_key_is_passed_on_with_a_digest_of_the_parameters() -> None:
    """The same request has the same key, another payment with the same key has another; without one each is its own."""
    one, other = {"a": 1, "b": 2}, {"a": 1, "b": 3}
    assert idempotency_key(KEY, one) == idempotency_key(KEY, dict(reversed(one.items())))
    assert idempotency_key(KEY, one).startswith(f"{KEY}-")
    assert len(idempotency_key("k" * 200, one)) <= 255
    assert len({idempotency_key(key, params) for key in (KEY, None, None) for params in (one, other)}) == 6
    for key in ("1", "", "k" * 201, "a key with spaces", "ключ" * 5):
        with pytest.raises(InvalidCheckout, match="Idempotency-Key"):
            idempotency_key(key, one)

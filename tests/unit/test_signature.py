"""Our check of Stripe's signature, compared with Stripe's own library."""

import pytest
import stripe
from hypothesis import example, given
from hypothesis import strategies as st

from daemon.api.signature import TOLERANCE_S, BadSignature, signing_state, verify
from daemon.simulator.sender import sign

NOW = 1_760_000_000
SECRET = "whsec_one"
STATE = signing_state(SECRET)

PART = st.sampled_from(["t", "v0", "v1", "", "V1", " v1"])
VALUE = st.sampled_from([str(NOW), str(NOW - 301), "-1", "1e3", "²", "", "0" * 64, "é" * 64]) | st.text(max_size=5)
GOOD = sign(b"{}", SECRET, NOW)


def ours(body: bytes, header: str) -> bool:
    try:
        verify(body, header, [STATE], NOW)
    except BadSignature:
        return False
    return True


def stripes(body: bytes, header: str) -> bool:
    try:
        return bool(stripe.WebhookSignature.verify_header(body.decode(), header, SECRET, tolerance=None))
    except (stripe.SignatureVerificationError, ValueError, TypeError):
        return False


@given(st.lists(st.tuples(PART, VALUE).map("=".join) | st.sampled_from(GOOD.split(",")), max_size=6).map(",".join))
@example(GOOD)
@example(",".join(reversed(GOOD.split(","))))
@example(f"{GOOD},v1={'0' * 64},v0=1")
def test_never_laxer_than_stripe(header: str) -> None:
    """Stripe's library takes each header that donationd takes; and donationd takes each that Stripe would send."""
    if ours(b"{}", header):
        assert stripes(b"{}", header)
    assert ours(b"{}", GOOD)


@given(st.binary(max_size=50), st.integers(0, 399))
def test_one_changed_bit_is_found(body: bytes, bit: int) -> None:
    """No bit of the body can change under a signature."""
    if bit < len(body) * 8:
        changed = bytearray(body)
        changed[bit // 8] ^= 1 << (bit % 8)
        assert not ours(bytes(changed), sign(body, SECRET, NOW))
    assert ours(body, sign(body, SECRET, NOW))


@given(st.integers(-(10**6), 10**6))
def test_the_time_counts_both_ways(seconds: int) -> None:
    """A timestamp is good for 300 s, in the past and in the future alike."""
    assert ours(b"{}", sign(b"{}", SECRET, NOW + seconds)) is (abs(seconds) <= TOLERANCE_S)


@pytest.mark.parametrize("secrets", [["whsec_one", "whsec_two"], ["whsec_two", "whsec_one"]])
def test_any_secret_counts_while_they_roll(secrets: list[str]) -> None:
    """The order of the configured secrets does not matter."""
    assert verify(b"{}", sign(b"{}", "whsec_one", NOW), list(map(signing_state, secrets)), NOW) == NOW

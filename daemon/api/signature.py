"""Pure: Stripe's signature of a webhook's body, checked by one HMAC per secret.

https://docs.stripe.com/webhooks/signature: `t=…,v1=…[,v1=…]`, HMAC-SHA256 over `{t}.{raw body}`. The cheapest
checks come first, so that a forgery costs less than an event.
"""

import hmac
from collections.abc import Sequence

TOLERANCE_S = 300  # https://docs.stripe.com/webhooks#replay-attacks, kept in both directions
MAX_SIGNATURES = 10  # Stripe sends one, two while a secret rolls; each more would cost a comparison
HEX_DIGITS = 64


class BadSignature(Exception):
    """The body is not signed by Stripe, or its time is too far away. The message is a fixed text; `reason` is the value
    of a metric's label."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def signing_state(secret: str) -> hmac.HMAC:
    """What `verify` needs of a secret: the state that each signature begins with, which costs less to copy."""
    return hmac.new(secret.encode(), digestmod="sha256")


def verify(body: bytes, header: str, secrets: Sequence[hmac.HMAC], now: float) -> int:
    """Checks a `Stripe-Signature` header against the raw body. Returns when Stripe signed it, in Unix seconds.

    Args:
        secrets: their states; any of them may have signed, so that secrets can be rolled.
        now: Unix seconds.

    Raises:
        BadSignature: the signature matches no secret, or the time is more than 300 s away.
    """
    parts = [part.partition("=") for part in header.split(",")]
    stamp = next((value for name, _, value in parts if name == "t"), "")
    if not (header.isascii() and stamp.isdigit() and len(stamp) <= 12):
        raise BadSignature("malformed", "the Stripe-Signature header is missing or has no timestamp")
    if abs(now - int(stamp)) > TOLERANCE_S:
        raise BadSignature("timestamp", "the timestamp is too far from now")
    given = [value for name, _, value in parts if name == "v1" and len(value) == HEX_DIGITS]
    if not given or len(given) > MAX_SIGNATURES:
        raise BadSignature("malformed", "the Stripe-Signature header has no v1 signature, or too many")
    for secret in secrets:
        state = secret.copy()
        state.update(stamp.encode() + b".")
        state.update(body)
        ours = state.hexdigest()
        for theirs in given:
            if hmac.compare_digest(ours, theirs):
                return int(stamp)
    raise BadSignature("mismatch", "no signature matches the body")

"""How many calls of Stripe's API begin in a second, and how long a call waits before it is tried again. No I/O."""

import math

RATE_PER_S = 20.0  # Stripe allows 25 in a sandbox and 100 in live mode: https://docs.stripe.com/rate-limits
BURST = 5  # calls that may begin at once; so at most 25 begin in any second

FIRST_BACKOFF_S = 0.5
MAX_BACKOFF_S = 8.0


class RateLimit:
    """A token bucket: it decides when each call may begin. Times are seconds of one monotonic clock."""

    def __init__(self, rate_per_s: float = RATE_PER_S, burst: int = BURST) -> None:
        self._interval_s = 1 / rate_per_s
        self._lead_s = (burst - 1) * self._interval_s
        self._full_s = -math.inf  # when the bucket is full again, if no further call takes a token
        self._paused_until_s = -math.inf

    def start_s(self, now_s: float) -> float:
        """The earliest time at which one more call may begin."""
        return max(now_s, self._paused_until_s, self._full_s - self._lead_s)

    def take(self, start_s: float) -> None:
        """Let a call begin at this time, which `start_s` returned."""
        self._full_s = max(self._full_s, start_s) + self._interval_s

    def pause(self, until_s: float) -> None:
        """Let no call begin before this time, because Stripe answered one with 429."""
        self._paused_until_s = max(self._paused_until_s, until_s)

    def is_paused(self, now_s: float) -> bool:
        """Whether no call may begin now because of `pause`."""
        return now_s < self._paused_until_s


def backoff_s(attempt: int, share: float) -> float:
    """How long to wait after an attempt that failed: exponential backoff with full jitter.

    Args:
        attempt: 1 for the first.
        share: a random number from 0 to 1.
    """
    return share * min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** (attempt - 1))

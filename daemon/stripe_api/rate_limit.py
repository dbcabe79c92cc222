"""How many calls of Stripe's API begin in a second, and how long a call waits before it is tried again. No I/O."""

import math
from typing import NamedTuple, Protocol

RATE_PER_S = 20.0  # Stripe allows 25 in a sandbox and 100 in live mode: https://docs.stripe.com/rate-limits
BURST = 5  # calls that may begin at once; so at most 25 begin in any second
OWN_RATE_PER_S = RATE_PER_S / 4  # of a process that cannot ask for the limit of all: so four or five can be like that

FIRST_BACKOFF_S = 0.5
MAX_BACKOFF_S = 8.0


class Reservation(NamedTuple):
    """When a call may begin.

    Attributes:
        is_made: whether it may begin then; False if that would be later than was asked for.
        wait_s: in how many seconds.
        is_paused: whether no call may begin now because Stripe answered one with 429.
    """

    is_made: bool
    wait_s: float
    is_paused: bool


class SharedLimit(Protocol):
    """Limits of all processes together, each with a name: `sql.rate_limit`."""

    async def reserve(
        self, name: str, within_s: float, *, rate_per_s: float, burst: int
    ) -> tuple[bool, float, bool] | None:
        """As RateLimit.reserve, now; None if it cannot be asked."""

    async def pause(self, name: str, pause_s: float) -> None:
        """Let no call begin for so many seconds, in any process."""


class RateLimit:
    """A token bucket: it decides when each call may begin. Times are seconds of one monotonic clock."""

    def __init__(self, rate_per_s: float = RATE_PER_S, burst: int = BURST) -> None:
        self._interval_s = 1 / rate_per_s
        self._lead_s = (burst - 1) * self._interval_s
        self._full_s = -math.inf  # when the bucket is full again, if no further call takes a token
        self._paused_until_s = -math.inf

    def reserve(self, now_s: float, within_s: float = math.inf) -> Reservation:
        """Let one more call begin as early as it may, if that is less than `within_s` seconds away."""
        start_s = max(now_s, self._paused_until_s, self._full_s - self._lead_s)
        is_made = start_s < now_s + within_s
        if is_made:
            self._full_s = max(self._full_s, start_s) + self._interval_s
        return Reservation(is_made, start_s - now_s, self.paused_s(now_s) > 0)

    def pause(self, until_s: float) -> None:
        """Let no call begin before this time, because Stripe answered one with 429."""
        self._paused_until_s = max(self._paused_until_s, until_s)

    def paused_s(self, now_s: float) -> float:
        """For how many seconds no call may begin because of `pause`."""
        return max(0.0, self._paused_until_s - now_s)


def backoff_s(attempt: int, share: float) -> float:
    """How long to wait after an attempt that failed: exponential backoff with full jitter.

    Args:
        attempt: 1 for the first.
        share: a random number from 0 to 1.
    """
    return share * min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** (attempt - 1))

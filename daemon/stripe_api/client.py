"""The client of Stripe's API: every call passes one rate limit, ends in time and is tried again a few times.

`daemon.stripe_api.transport` makes the requests. It loads the `stripe` library, which takes 0.1 s and 9 MB: a process
that makes no client does not need it.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from daemon.stripe_api.config import StripeAccount
from daemon.stripe_api.rate_limit import (
    BURST,
    OWN_RATE_PER_S,
    RATE_PER_S,
    RateLimit,
    Reservation,
    SharedLimit,
    backoff_s,
)

API_VERSION = "2026-10-28.endive"  # of every call, and of the webhook endpoint that `donationd stripe setup` makes

ATTEMPTS = 4
ATTEMPT_S = 20.0  # a page of 100 objects takes Stripe a second or two
DEADLINE_S = 60.0  # for one call with all its attempts and waits
PAGE_SIZE = 100  # the most that Stripe allows
LIMIT_NAME = "stripe"  # of the rate limit that all processes share

Params = Mapping[str, Any]
Method = Literal["get", "post", "delete"]


class StripeUnavailable(Exception):
    """Stripe's API did not answer, or not usably; the same call can succeed later, and with the same idempotency key
    nothing is done twice.

    Attributes:
        reason: one of a few fixed phrases.
        retry_after_s: how long Stripe wants no call, in seconds; 0 if it did not say.
    """

    def __init__(self, reason: str, retry_after_s: float = 0.0) -> None:
        super().__init__(f"Stripe's API cannot be used: {reason}")
        self.reason = reason
        self.retry_after_s = retry_after_s


class StripeRejected(Exception):
    """Stripe's API answers and does not accept the call: trying again is of no use before something is changed.

    Attributes:
        status: of the reply: 401 if the key is wrong, 403 if it lacks a permission, 404 if there is no such object.
        code, param: Stripe's code of the error and the parameter at fault, where it names them.
        request_id: finds the request in Stripe's dashboard.
    """

    def __init__(self, status: int, code: str | None, param: str | None, request_id: str | None) -> None:
        about = ", ".join(filter(None, (code, param and f"parameter {param}", request_id)))
        super().__init__(f"Stripe's API rejected the call: status {status}{f' ({about})' if about else ''}")
        self.status = status
        self.code = code
        self.param = param
        self.request_id = request_id


class Reply(NamedTuple):
    """A reply that succeeded: a JSON object, and the time in its `Date` header in Unix seconds."""

    body: bytes
    date: int


OUTCOMES: Mapping[type, str] = {Reply: "ok", StripeUnavailable: "unavailable", StripeRejected: "rejected"}


class Page(NamedTuple):
    """One page of a list: its objects, the newest first, and the id of the last one (None on an empty page)."""

    objects: list[msgspec.Raw]
    last_id: str | None
    has_more: bool
    date: int


class _List(msgspec.Struct):
    object: Literal["list"]
    data: list[msgspec.Raw]
    has_more: bool


class _Identified(msgspec.Struct):
    id: str


class StripeApi:
    """Calls of Stripe's API with the key and the address of a configuration. One per process, made in its event loop.

    Every function raises StripeUnavailable or StripeRejected.

    Args:
        shared: the rate limit of all processes together; None for this one's own.
        deadline_s: what one call may take in all; waits for the rate limit count.
        count: called after each request with how it ended: "ok", "unavailable" or "rejected".
        clock, sleep, share: the time in seconds, the wait and the random number that a process uses.
    """

    def __init__(
        self,
        config: StripeAccount,
        *,
        shared: SharedLimit | None = None,
        deadline_s: float = DEADLINE_S,
        count: Callable[[str], None] = lambda _outcome: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        share: Callable[[], float] = random.random,
    ) -> None:
        assert config.stripe_api_key is not None  # noqa: S101 - who has no key makes no client
        from daemon.stripe_api.transport import Transport  # noqa: PLC0415 - see above

        self._transport = Transport(config.stripe_api_key.get_secret_value(), config.stripe_api_base, API_VERSION)
        self._shared = shared
        self._limit = RateLimit(OWN_RATE_PER_S, burst=1) if shared else RateLimit()
        self._deadline_s = deadline_s
        self._count = count
        self._clock = clock
        self._sleep = sleep
        self._share = share

    async def get(self, path: str, params: Params | None = None, *, account: str | None = None) -> Reply:
        """Read an object or a list.

        Args:
            path: such as `/v1/payment_intents`.
            account: the connected account whose objects are meant; None: the key's own.
        """
        return await self._call("get", path, params, account=account)

    async def post(
        self, path: str, params: Params | None = None, *, idempotency_key: str, account: str | None = None
    ) -> Reply:
        """Create or change an object. Within 24 hours a call with the same key has one effect, and the same reply."""
        return await self._call("post", path, params, account=account, idempotency_key=idempotency_key)

    async def delete(self, path: str, *, idempotency_key: str, account: str | None = None) -> Reply:
        """Delete an object."""
        return await self._call("delete", path, None, account=account, idempotency_key=idempotency_key)

    async def pages(
        self,
        path: str,
        params: Params | None = None,
        *,
        account: str | None = None,
        starting_after: str | None = None,
    ) -> AsyncIterator[Page]:
        """A list page by page, the newest objects first; each page is asked for when the caller needs it.

        Args:
            starting_after: the `last_id` of a page: the list begins behind it.
        """
        while True:
            cursor = {"starting_after": starting_after} if starting_after else {}
            page = read_page(await self.get(path, {"limit": PAGE_SIZE, **(params or {}), **cursor}, account=account))
            if page.has_more and page.last_id in {None, starting_after}:
                raise StripeUnavailable("a list that does not go on")
            yield page
            if not page.has_more:
                return
            starting_after = page.last_id

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    async def _call(self, method: Method, path: str, params: Params | None, **options: str | None) -> Reply:
        """Attempt a call until it is answered, or neither an attempt nor time is left."""
        by_s = self._clock() + self._deadline_s
        attempt = 0
        while True:
            attempt += 1
            await self._admit(by_s)
            outcome = await self._transport.attempt(
                min(ATTEMPT_S, by_s - self._clock()), method, path, params, **options
            )
            self._count(OUTCOMES[type(outcome)])
            if isinstance(outcome, Reply):
                return outcome
            if isinstance(outcome, StripeRejected):
                raise outcome
            if outcome.retry_after_s:
                self._limit.pause(self._clock() + outcome.retry_after_s)
                if self._shared:
                    await self._shared.pause(LIMIT_NAME, outcome.retry_after_s)
            pause_s = backoff_s(attempt, self._share())
            if attempt == ATTEMPTS or self._clock() + max(pause_s, outcome.retry_after_s) >= by_s:
                raise outcome
            await self._sleep(pause_s)

    async def _admit(self, by_s: float) -> None:
        """Wait until the call may begin. Raises StripeUnavailable, at once, if it may not in time."""
        while True:
            reservation = await self._reserve(by_s - self._clock())
            if not reservation.is_made:
                reason = "too many requests" if reservation.is_paused else "too many calls wait"
                raise StripeUnavailable(reason, reservation.wait_s)
            if reservation.wait_s > 0:
                await self._sleep(reservation.wait_s)
            if not self._limit.paused_s(self._clock()):
                return

    async def _reserve(self, within_s: float) -> Reservation:
        """When the call may begin, by the limit of all processes, or by this one's part where that cannot be asked."""
        shared = None
        if self._shared:
            shared = await self._shared.reserve(LIMIT_NAME, within_s, rate_per_s=RATE_PER_S, burst=BURST)
        if shared is None:
            return self._limit.reserve(self._clock(), within_s)
        is_made, wait_s, is_paused = shared
        paused_s = self._limit.paused_s(self._clock())  # perhaps the database could not be asked to pause all
        return Reservation(is_made and paused_s < within_s, max(wait_s, paused_s), is_paused or paused_s > 0)


def read_page(reply: Reply) -> Page:
    """A page of a list. Raises StripeUnavailable if it is none, or not a complete one."""
    try:
        listed = msgspec.json.decode(reply.body, type=_List)
        last_id = msgspec.json.decode(listed.data[-1], type=_Identified).id if listed.data else None
    except msgspec.MsgspecError:
        malformed = True
    else:
        malformed = False
    if malformed:
        raise StripeUnavailable("a malformed list")
    return Page(listed.data, last_id, listed.has_more, reply.date)

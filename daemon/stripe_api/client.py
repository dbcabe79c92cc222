"""The client of Stripe's API: every call passes one rate limit, ends in time and is tried again a few times.

It is the `stripe` library's, over aiohttp. Neither its errors nor its log lines leave this module, because both can
repeat what a donor has entered.
"""

import asyncio
import logging
import random
import re
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Literal, NamedTuple

import aiohttp
import msgspec
import stripe

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
CONNECT_S = 5.0
MAX_REPLY_BYTES = 16 * 1024 * 1024  # a page of 100 objects, each with others inside, has less than 2 MB
PAGE_SIZE = 100  # the most that Stripe allows
DEFAULT_PAUSE_S = 1.0  # after a 429 that does not say for how long
MAX_PAUSE_S = 3600.0
LIMIT_NAME = "stripe"  # of the rate limit that all processes share

SLUG = re.compile(r"[\w.\[\]-]{1,100}", re.ASCII)  # Stripe's codes, names of parameters and ids of requests

logging.getLogger("stripe").disabled = True  # its lines contain the texts of Stripe's errors and whole replies
stripe.enable_telemetry = False

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
        self._http = _HttpClient(config.stripe_api_base)
        self._client = stripe.StripeClient(
            config.stripe_api_key.get_secret_value(),
            base_addresses={"api": config.stripe_api_base},
            stripe_version=API_VERSION,
            max_network_retries=0,  # each attempt must pass the rate limit
            http_client=self._http,
        )
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
        await self._http.close_async()

    async def _call(self, method: Method, path: str, params: Params | None, **options: str | None) -> Reply:
        """Attempt a call until it is answered, or neither an attempt nor time is left."""
        by_s = self._clock() + self._deadline_s
        attempt = 0
        while True:
            attempt += 1
            await self._admit(by_s)
            outcome = await self._attempt(min(ATTEMPT_S, by_s - self._clock()), method, path, params, **options)
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

    async def _attempt(
        self, timeout_s: float, method: Method, path: str, params: Params | None, **options: str | None
    ) -> Reply | StripeUnavailable | StripeRejected:
        """One request. What went wrong is returned, so that no exception that contains the reply is its context."""
        given = {"stripe_account": options.get("account"), "idempotency_key": options.get("idempotency_key")}
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._client.raw_request_async(
                    method, path, **(params or {}), **{name: value for name, value in given.items() if value}
                )
        except stripe.StripeError as error:
            return judge(error)
        except TimeoutError:
            return StripeUnavailable("timeout")
        except _ReplyTooLarge:
            return StripeUnavailable("a reply that is too large")
        except (aiohttp.ClientError, OSError):
            return StripeUnavailable("connection failed")
        except (
            UnicodeDecodeError,
            AttributeError,
        ):  # the library's: text that is not UTF-8, an error that is no object
            return StripeUnavailable("a malformed reply")
        return _reply(response)


def _reply(response: stripe.StripeResponse) -> Reply | StripeUnavailable:
    if not isinstance(response.data, dict):
        return StripeUnavailable("a malformed reply")
    try:
        date = int(parsedate_to_datetime(response.headers["Date"]).timestamp())
    except (KeyError, ValueError):
        return StripeUnavailable("a reply without its date")
    return Reply(response.body.encode(), date)


def judge(error: stripe.StripeError) -> StripeUnavailable | StripeRejected:
    """What an error of the library means; nothing of its text is kept (https://docs.stripe.com/error-low-level)."""
    status = error.http_status
    if status is None or 200 <= status < 400:
        return StripeUnavailable("a malformed reply")
    if status == 429 or error.code == "rate_limit":
        return StripeUnavailable("too many requests", _pause_s(error.headers))
    if status >= 500 or status == 409:  # 409: another request with the same key or object is in progress
        return StripeUnavailable(f"status {status}")
    return StripeRejected(status, _slug(error.code), _slug(getattr(error, "param", None)), _slug(error.request_id))


def _pause_s(headers: Mapping[str, str] | None) -> float:
    """The seconds of Retry-After; a date there, which Stripe does not send, counts as no number."""
    given = (headers or {}).get("Retry-After", "")
    return min(float(given), MAX_PAUSE_S) if re.fullmatch(r"[0-9]{1,9}", given) else DEFAULT_PAUSE_S


def _slug(text: object) -> str | None:
    return text if isinstance(text, str) and SLUG.fullmatch(text) else None


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


class _ReplyTooLarge(Exception):
    pass


class _HttpClient(stripe.HTTPClient):
    """One request over aiohttp: no redirection is followed, no cookie is kept and a reply's size has a limit."""

    name = "aiohttp"

    def __init__(self, base: str) -> None:
        super().__init__()
        # The library's own list of authorities, for a system that has none. Reading it takes some 10 ms.
        self._tls = ssl.create_default_context(cafile=stripe.ca_bundle_path) if base.startswith("https") else None
        self._session: aiohttp.ClientSession | None = None

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        """What the library calls for each request; it returns body, status and headers."""
        self._session = self._session or aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._tls or True),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
        )
        async with self._session.request(
            method, url, headers=headers, data=post_data, allow_redirects=False
        ) as response:
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > MAX_REPLY_BYTES:
                    raise _ReplyTooLarge
            return bytes(body), response.status, response.headers

    async def close_async(self) -> None:
        """Close the connections."""
        if self._session:
            await self._session.close()

"""Posts events to the API, signed and repeated until they are accepted, as Stripe's delivery does."""

import asyncio
import hashlib
import hmac
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import aiohttp
import msgspec

from daemon.simulator.stripe_objects import Json


@dataclass(frozen=True)
class Retry:
    """How a delivery is repeated after a 503, a proxy's error or a lost connection."""

    attempts: int = 6  # posts of one event, the first included
    delay_s: float = 1.0  # where the reply names no Retry-After; doubles each time
    longest_delay_s: float = 60.0  # also the bound on what a Retry-After may ask for

    def wait_s(self, attempt: int, retry_after: str | None) -> float:
        """Seconds to wait after the given attempt (from 1)."""
        asked = float(retry_after) if retry_after and retry_after.isdigit() else None
        return min(self.delay_s * 2 ** (attempt - 1) if asked is None else asked, self.longest_delay_s)


NO_REPLY = 0
REPEATED_STATUSES = frozenset({NO_REPLY, 429, 502, 503, 504})
REPLY_TIMEOUT_S = 30.0  # as long as Stripe waits, at most


@dataclass
class Outcome:
    """What became of the events so far; `replies` counts every post, a retried one several times.

    `total` = applied + duplicate + ignored + refused + undelivered + remaining.
    """

    total: int
    replies: Counter[str] = field(default_factory=Counter)  # HTTP status, or "no reply"
    applied: int = 0
    duplicate: int = 0
    ignored: int = 0  # a type that changes nothing, or the other mode
    refused: int = 0  # a final status that is no success
    undelivered: int = 0  # every attempt failed
    interrupted: bool = False
    acknowledged: set[str] = field(default_factory=set)  # ids of events that were answered with 200

    @property
    def remaining(self) -> int:
        """Events that have no final answer."""
        answered = self.applied + self.duplicate + self.ignored + self.refused + self.undelivered
        return self.total - answered


Progress = Callable[[Outcome], None]


async def no_reply_reason(base_url: str, timeout_s: float) -> str | None:
    """Why no HTTP server replies at the address; None if one does, whatever it replies."""
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as http,
            http.get(base_url.rstrip("/") + "/health/live", allow_redirects=False),
        ):
            return None
    except TimeoutError:
        return f"no reply within {timeout_s:g} s"
    except aiohttp.ClientConnectionError as error:
        return "connection refused" if isinstance(error.__cause__, ConnectionRefusedError) else str(error)
    except aiohttp.ClientError:
        return "it is not the address of an HTTP server"


async def deliver(
    base_url: str,
    secret: str,
    events: Sequence[Json],
    *,
    concurrency: int = 8,
    retry: Retry = Retry(),
    progress: Progress | None = None,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Outcome:
    """Posts the events, signed, to {base_url}/webhooks/stripe, and returns what became of them.

    `progress` is called after every post with the outcome so far. Cancelling (Ctrl-C under asyncio.run) stops the
    delivery and returns what was counted, marked `interrupted`. An event that was in flight then counts as remaining;
    delivering it again changes nothing.
    """
    outcome = Outcome(len(events))
    waiting = iter(events)
    timeout = aiohttp.ClientTimeout(total=REPLY_TIMEOUT_S)
    connector = aiohttp.TCPConnector(limit=concurrency)
    try:
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as http, asyncio.TaskGroup() as workers:
            sender = _Sender(http, base_url.rstrip("/") + "/webhooks/stripe", secret, retry, progress, clock, sleep)
            for _ in range(concurrency):
                workers.create_task(sender.send_all(waiting, outcome))
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()
        outcome.interrupted = True
    return outcome


@dataclass(frozen=True)
class _Sender:
    http: aiohttp.ClientSession
    url: str
    secret: str
    retry: Retry
    progress: Progress | None
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]

    async def send_all(self, events: Iterator[Json], outcome: Outcome) -> None:
        """One worker: takes the next event until none is left."""
        for event in events:
            await self.send(event, outcome)

    async def send(self, event: Json, outcome: Outcome) -> None:
        """One event, until it has a final answer or its attempts are used up."""
        body = encode(event)
        for attempt in range(1, self.retry.attempts + 1):
            status, retry_after, reply = await post(self.http, self.url, body, self.secret, self.clock())
            outcome.replies[str(status) if status != NO_REPLY else "no reply"] += 1
            again = status in REPEATED_STATUSES
            if not again:
                _count(outcome, event, status, reply)
            elif attempt == self.retry.attempts:
                outcome.undelivered += 1
            if self.progress is not None:
                self.progress(outcome)
            if not again or attempt == self.retry.attempts:
                return
            await self.sleep(self.retry.wait_s(attempt, retry_after))


async def post(
    http: aiohttp.ClientSession, url: str, body: bytes, secret: str, now: float
) -> tuple[int, str | None, Json]:
    """Posts an event once, signed at this time, as Stripe does each time.

    Returns:
        the status (or NO_REPLY), the header Retry-After, and the JSON object of the reply.
    """
    headers = {
        "Content-Type": "application/json; charset=utf-8",
        "Stripe-Signature": sign(body, secret, int(now)),
        "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
    }
    try:
        async with http.post(url, data=body, headers=headers) as response:
            text = await response.read()
            return response.status, response.headers.get("Retry-After"), _object(text)
    except (aiohttp.ClientError, TimeoutError):
        return NO_REPLY, None, {}


async def control_fake(base_url: str, action: str, arguments: Mapping[str, object]) -> Json:
    """Makes something happen at a fake of Stripe's API (`fake_stripe.control`); returns what it says of it.

    Raises:
        aiohttp.ClientError: no fake is there, or it does not do this.
    """
    timeout = aiohttp.ClientTimeout(total=REPLY_TIMEOUT_S)
    async with (
        aiohttp.ClientSession(base_url, timeout=timeout, raise_for_status=True) as http,
        http.post(f"/_control/{action}", json=arguments) as response,
    ):
        done: Json = await response.json()
        return done


def encode(event: Json) -> bytes:
    """The bytes of an event's body, indented as Stripe sends them."""
    return msgspec.json.format(msgspec.json.encode(event), indent=2)


def sign(body: bytes, secret: str, timestamp: int) -> str:
    """The Stripe-Signature header of a body at a Unix second: HMAC-SHA256 over `{timestamp}.{body}`."""
    signature = hmac.new(secret.encode(), b"%d." % timestamp + body, hashlib.sha256)
    return f"t={timestamp},v1={signature.hexdigest()}"


def _count(outcome: Outcome, event: Json, status: int, reply: Json) -> None:
    if status != 200:
        outcome.refused += 1
        return
    outcome.acknowledged.add(event["id"])
    if reply.get("idempotent"):
        outcome.duplicate += 1
    elif reply.get("handled", True):
        outcome.applied += 1
    else:
        outcome.ignored += 1


def _object(text: bytes) -> Json:
    """A JSON object, or an empty one for anything else (a proxy's error page)."""
    try:
        decoded = json.loads(text)
    except ValueError:
        return {}
    return decoded if isinstance(decoded, dict) else {}

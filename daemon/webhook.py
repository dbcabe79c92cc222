"""One event's way: raw bytes -> signature -> facts -> one durable statement -> reply (SPEC 4)."""

import time
from collections.abc import Awaitable, Callable, Sequence

import stripe
from aiohttp import web

from daemon import metrics
from daemon.event_log import EventLog
from daemon.facts import CannotApply, NotAnEvent, StripeEvent, read
from daemon.recorder import Entry, Recorded

BODY_LIMIT = 1024 * 1024  # Stripe's events have a few kB
TOLERANCE_S = 300  # https://docs.stripe.com/webhooks#replay-attacks, kept in both directions


class BadSignature(Exception):
    """The body is not signed by Stripe, or not now. The message is fixed text: Stripe's own holds the whole body."""


def verify(body: bytes, header: str, secrets: Sequence[str], now: float) -> None:
    """Checks a `Stripe-Signature` header against the raw body.

    Args:
        secrets: any of them may have signed, so that secrets can be rolled.
        now: Unix seconds.

    Raises:
        BadSignature: no secret fits, or the time is more than 300 s away.
    """
    _check_time(header, now)
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise BadSignature("the body is not UTF-8") from None
    if not any(_signed_by(text, header, secret) for secret in secrets):
        raise BadSignature("no signature matches the body")


def _check_time(header: str, now: float) -> None:
    stamp = next((part[2:] for part in header.split(",") if part.startswith("t=")), "")
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 12):
        raise BadSignature("the Stripe-Signature header is missing or has no timestamp")
    if abs(now - int(stamp)) > TOLERANCE_S:
        raise BadSignature("the timestamp is too far from now")


def _signed_by(text: str, header: str, secret: str) -> bool:
    try:
        # The time was checked in both directions above; the library knows only one.
        stripe.WebhookSignature.verify_header(text, header, secret, tolerance=None)
    except stripe.SignatureVerificationError:
        return False
    return True


Record = Callable[[Entry, int], Awaitable[Recorded]]  # an event, and its body's size in bytes


class Webhook:
    """`POST /webhooks/stripe`."""

    def __init__(
        self,
        record: Record,
        *,
        secrets: Sequence[str],
        livemode: bool,
        hash_key: bytes | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._record = record
        self._secrets = secrets
        self._livemode = livemode
        self._hash_key = hash_key
        self._clock = clock
        self._event_log = EventLog()

    async def receive(self, request: web.Request) -> web.Response:
        started = time.perf_counter()
        body = await request.read()
        try:
            verify(body, request.headers.get("Stripe-Signature", ""), self._secrets, self._clock())
            event, error = self._reduce(body)
        except (BadSignature, NotAnEvent) as refusal:
            metrics.WEBHOOK_EVENTS.labels("none", "refused").inc()
            raise web.HTTPBadRequest(text=str(refusal)) from None
        recorded = await self._record(Entry(event, error), len(body))
        is_new = event.id in recorded.new
        error = recorded.refused.get(event.id, error)
        outcome = _outcome(event, error, is_new)
        metrics.WEBHOOK_EVENTS.labels(metrics.type_label(event.type), outcome).inc()
        metrics.WEBHOOK_DURATION.observe(time.perf_counter() - started)
        level, message = _line(event, outcome)
        reason = error or event.reason
        self._event_log.write(level, message, type=event.type, **({"reason": reason} if reason else {}))
        if outcome == "failed":
            raise web.HTTPUnprocessableEntity(text=f"event {event.id} can't be applied: {error}")
        return web.json_response(_reply(event, is_new))

    def _reduce(self, body: bytes) -> tuple[StripeEvent, str | None]:
        """The event, and the scrubbed reason why it can't be applied, if so."""
        try:
            return read(body, livemode=self._livemode, hash_key=self._hash_key), None
        except CannotApply as failure:
            return failure.event, failure.reason


def _outcome(event: StripeEvent, error: str | None, is_new: bool) -> str:
    if not is_new:
        return "duplicate"
    if error is not None:
        return "failed"
    return "applied" if event.facts is not None else "ignored"


def _reply(event: StripeEvent, is_new: bool) -> dict[str, object]:
    reply: dict[str, object] = {
        "received": True,
        "type": event.type,
        "idempotent": not is_new,
        "handled": event.facts is not None,
    }
    return reply if event.reason is None else {**reply, "reason": event.reason}


def _line(event: StripeEvent, outcome: str) -> tuple[str, str]:
    """Level and message of the event's log line, in the seed's wording."""
    return {
        "duplicate": ("info", f"[Webhook] ✅ Event {event.id} already processed, skipping"),
        "failed": ("error", f"[Webhook] ❌ Event {event.id} can't be applied"),
        "applied": ("info", f"[Webhook] ✅ Attribution updated by event {event.id}"),
        "ignored": ("debug", f"[Webhook] Event {event.id} changes nothing"),
    }[outcome]
